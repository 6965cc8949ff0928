"""What a call carries, its arguments or its result: bytes in the message, or a blob beside it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dspex.errors import PayloadTooLarge
from dspex.wire.blobs import Blob, available
from dspex.wire.values import WireError, decode, encode, too_large

Payload = bytes | Blob

#: Bytes from which a value goes beside the channel. What is smaller fits into one frame, which is up to 1.5
#: times as fast, for a blob costs some 150 µs whatever its size. With the second frame the two are even for
#: bytes and text, and at 1 MiB a blob takes 0.75 of the time, at 4 MiB 0.4; for lists, whose encoding takes
#: most of it, they are even from 64 KiB on (``python -m bench --only large``).
THRESHOLD = 240 * 1024
# Bytes from which storing takes an event loop more time than the way to a thread and back.
_HEAVY = 2 * 1024 * 1024


def encode_arguments(
    value: Any, limit: int, *, where: str, on_loop: bool = False
) -> tuple[Payload | list[bytes], dict[str, type]]:
    """Encode and store what a caller sends.

    Args:
        value: The value.
        limit: The most bytes that it may have.
        where: What it is called in messages.
        on_loop: Whether to leave a value that would hold up an event loop to ``astore``.

    Returns:
        The stored value, or the pieces for ``astore``; and the classes in it by their name on the wire.

    Raises:
        InvalidInput: A part of it cannot be sent.
        PayloadTooLarge: It is over the limit; nothing was stored or sent.
    """
    pieces, types = encode(value, where=where)
    size = len(pieces[0]) if len(pieces) == 1 else _size(pieces)
    if size > limit:
        raise PayloadTooLarge(
            f"arguments of {size:,} bytes are over the limit of {limit:,}; send less, or raise "
            "Settings(max_payload=...)",
            details={"size": size, "limit": limit},
        )
    if on_loop and size >= _HEAVY:
        return pieces, types
    return store(pieces), types


def check_result(size: int, limit: int) -> None:
    """Refuse a result that is too large, before it is stored or sent.

    Raises:
        ResultTooLarge: It is over the limit.
    """
    if size > limit:
        raise too_large(size, limit)


def store(pieces: Sequence[bytes]) -> Payload:
    """An encoded value, ready to be sent; its bytes are copied here, without the GIL if they are many."""
    if len(pieces) == 1 and len(pieces[0]) < THRESHOLD:
        return pieces[0]
    if _size(pieces) >= THRESHOLD and available():
        # Without room for a blob it goes as frames: slower, and with the bytes on the loop.
        with contextlib.suppress(OSError):
            return Blob.of(pieces)
    return b"".join(pieces)


def is_heavy(pieces: Sequence[bytes]) -> bool:
    """Whether ``store`` would hold up an event loop, which has ``astore`` for that."""
    return _size(pieces) >= _HEAVY


async def astore(pieces: Sequence[bytes]) -> Payload:
    """``store`` in a thread; the event loop goes on while the bytes are copied."""
    return await asyncio.to_thread(store, pieces)


def take(payload: Payload | msgspec.Raw, types: Mapping[str, type] | None = None) -> Any:
    """The value; a blob is closed, for nothing in the value is a view of it.

    Args:
        payload: What was received.
        types: The classes that may be built, see ``dspex.wire.values.decode``.

    Raises:
        WireError: The bytes are malformed, or the blob cannot be read.
    """
    if not isinstance(payload, Blob):
        return decode(payload, types)
    try:
        with payload.mapped() as view:
            try:
                return decode(view, types)
            except WireError as error:
                # Raised anew, for the traceback of this one holds views, and the memory with them.
                fault = str(error)
        raise WireError(fault)
    except OSError as error:
        raise WireError(f"its {payload.size:,} bytes cannot be read: {error.strerror}") from error
    finally:
        payload.close()


def size_of(payload: Payload) -> int:
    """Its bytes."""
    return payload.size if isinstance(payload, Blob) else len(payload)


def discard(payload: Payload | msgspec.Raw) -> None:
    """Let go of a payload that nobody will read."""
    if isinstance(payload, Blob):
        payload.close()


def _size(pieces: Sequence[bytes]) -> int:
    return sum(map(len, pieces))
