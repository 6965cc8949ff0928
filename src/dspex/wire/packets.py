"""Messages with descriptors beside them: how the supervisor and a zygote talk.

A socket of whole packets (``SOCK_SEQPACKET``) keeps each message together with its descriptors.
"""

from __future__ import annotations

import os
import socket
from array import array
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from dspex.wire.messages import Message, encode

_MAX_PACKET = 128 * 1024
_MAX_DESCRIPTORS = 8
_DESCRIPTOR = array("i").itemsize

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
    # Not socket.recv_fds: it drops its flags, and the descriptors would be inherited by every child.
    space = socket.CMSG_SPACE(_MAX_DESCRIPTORS * _DESCRIPTOR)
    data, ancillary, _flags, _address = sock.recvmsg(_MAX_PACKET, space, socket.MSG_CMSG_CLOEXEC)
    descriptors: list[int] = []
    for level, kind, packed in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            whole = len(packed) - len(packed) % _DESCRIPTOR
            descriptors += array("i", packed[:whole])
    if not data:
        return None, descriptors
    try:
        return decode(data), descriptors
    except ValueError as error:  # msgspec's own errors, and text that is no UTF-8
        for descriptor in descriptors:
            os.close(descriptor)
        raise msgspec.DecodeError(f"malformed packet: {error}") from error
