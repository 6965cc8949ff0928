"""Messages with descriptors beside them: how the supervisor and a zygote talk.

A socket of whole packets (``SOCK_SEQPACKET``) keeps each message together with its descriptors.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from dspex.wire.messages import Message, encode

_MAX_PACKET = 128 * 1024
_MAX_DESCRIPTORS = 8

M = TypeVar("M")


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(sock: socket.socket, message: Message, descriptors: Sequence[int] = ()) -> None:
    """Send one message and copies of open descriptors.

    Raises:
        OSError: The other side is gone, or (non-blocking) cannot take it now.
    """
    socket.send_fds(sock, [encode(message)], list(descriptors))


def receive(sock: socket.socket, decode: Callable[[bytes], M]) -> tuple[M | None, list[int]]:
    """Receive one message and the descriptors beside it; None when the other side is gone.

    Raises:
        msgspec.DecodeError: The packet is malformed; descriptors that came with it are closed.
        OSError: Non-blocking, and there is nothing.
    """
    data, descriptors, _flags, _address = socket.recv_fds(
        sock, _MAX_PACKET, _MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
    )
    if not data:
        return None, descriptors
    try:
        return decode(data), descriptors
    except msgspec.DecodeError:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
