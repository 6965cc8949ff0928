"""Values on the wire: what a caller's arguments and a worker's results become between the processes.

Nothing is ever unpickled, and reading imports nothing that a message names: only numpy for an array, and
``tzdata`` for a time zone that the system does not have. A class goes by its name and is built only where
that very name was handed in with its class. The format is in ``codes``.

Some values arrive as something simpler, by design:

- ``bytearray`` and ``memoryview`` as ``bytes``;
- an instance of a subclass of a builtin type as that type (a namedtuple as a tuple, a defaultdict as a dict);
- a time zone that is not ``zoneinfo``'s as the offset it had;
- one object that is in a value twice as two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from dspex.errors import InvalidInput, ResultTooLarge
from dspex.wire.codes import MAX_DEPTH, Refusal, Unsendable, WireError
from dspex.wire.reader import Reader
from dspex.wire.sizes import TooLarge
from dspex.wire.writer import write

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MAX_DEPTH", "Unsendable", "WireError", "decode", "encode", "encode_result", "too_large"]

_decode_plain = msgspec.msgpack.Decoder(ext_hook=Reader({}).build).decode


def encode(value: Any, *, where: str = "value") -> tuple[list[bytes], dict[str, type]]:
    """Encode what a caller sends.

    Args:
        value: None, booleans, numbers, strings, bytes, the builtin containers, dates and times, ``Decimal``,
            ``UUID``, members of enums, dataclasses, pydantic models, msgspec Structs, numpy arrays and
            scalars, in any combination.
        where: What the value is called in messages (``"inputs"``).

    Returns:
        One MessagePack value in pieces that are to be joined, so that large bytes are not copied; and the
        classes of records and enums in it by their name on the wire, with which ``decode`` builds the same
        classes from an answer.

    Raises:
        InvalidInput: A part of it cannot be sent; the message and ``details["path"]`` say which.
    """
    try:
        return write(value, lenient=False)
    except Refusal as refusal:
        path = where + refusal.path()
        message = f"{path}: cannot be sent: {refusal.reason}"
        raise InvalidInput(message, details={"path": path}) from refusal.__cause__


def encode_result(value: Any) -> list[bytes]:
    """Encode what a worker answers, with an ``Unsendable`` in the place of each part that cannot be sent.

    A dict with a key, or a set with an element, that cannot be sent is replaced as a whole: two markers in
    it would fall into one.

    Returns:
        One MessagePack value in pieces, as ``encode`` gives it.

    Raises:
        ResultTooLarge: It is nested deeper than ``MAX_DEPTH``, contains itself, or has more bytes than the
            context allows; that is found before they are written.
    """
    try:
        return write(value, lenient=True)[0]
    except Refusal as refusal:
        path = "result" + refusal.path()
        # One that contains itself is always too large, and that is not what is wrong with it.
        if isinstance(refusal, TooLarge) and not refusal.is_endless:
            raise too_large(refusal.size, refusal.limit) from None
        message = f"{path}: cannot be sent: {refusal.reason}"
        raise ResultTooLarge(message, details={"path": path}) from refusal.__cause__


def too_large(size: int, limit: int) -> ResultTooLarge:
    """The error for a result that is over the limit."""
    return ResultTooLarge(
        f"the result of {size:,} bytes is over the limit of {limit:,}; return less, or raise "
        "Settings(max_result=...)",
        details={"size": size, "limit": limit},
    )


def decode(data: bytes | memoryview | msgspec.Raw, types: Mapping[str, type] | None = None) -> Any:
    """The value that was encoded.

    Args:
        data: What ``encode`` or ``encode_result`` gave, joined.
        types: The classes that may be built, by their name on the wire. A record of any other class comes as
            a dict of its fields, and a member of any other enum as its value. As a key of a dict or an
            element of a set, where no dict can be, such a record comes as a tuple of (field, value) pairs.

    Raises:
        WireError: The data are malformed, or do not fit the classes; bad data raise nothing else.
    """
    try:
        if not types:
            return _decode_plain(data)
        return msgspec.msgpack.decode(data, ext_hook=Reader(types).build)
    except WireError:
        raise
    except Exception as error:
        # Whatever bad bytes set off, in any of the types that are built here, has this one cause.
        text = f": {error}" if isinstance(error, msgspec.MsgspecError) else ""
        raise WireError(f"malformed value: {type(error).__name__}{text}") from error
