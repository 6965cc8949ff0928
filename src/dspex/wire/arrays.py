"""numpy arrays and scalars on the wire; numpy itself is imported only to read one.

An array travels as its dtype, shape and order, and its raw numbers behind them: no dtype with objects in
it, because those would have to be pickled.
"""

from __future__ import annotations

import importlib
import math
import re
import sys
from typing import TYPE_CHECKING, Any

from msgspec.msgpack import Ext

from dspex.wire.codes import ARRAY, NUMBER, TEXT, Refusal, WireError, pack, type_name, unpack

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    import numpy as np

#: bool, integers, floats, complex, timedelta, datetime, fixed byte strings and fixed strings.
_KINDS = frozenset("biufcmMSU")
_DTYPE = re.compile(r"[<>|](b1|[iu][1248]|[fc]\d{1,2}|[SU]\d{1,9}|[mM]8(\[\d{0,9}[A-Za-z]{1,2}\])?)")


def write(value: Any, mro: tuple[type, ...]) -> Ext | None:
    """An array or a scalar of numpy as an extension; None when the value is neither.

    Raises:
        Refusal: Its dtype cannot be sent, or it is a subclass that holds more than its numbers.
    """
    # A value can only be numpy's if numpy is loaded.
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if getattr(numpy, "generic", None) in mro:
        if isinstance(value, numpy.str_):
            return Ext(TEXT, pack(str.__str__(value)))
        if isinstance(value, numpy.bytes_):
            return Ext(TEXT, pack(memoryview(value)))
        return Ext(NUMBER, _pack_array(numpy, numpy.asarray(value)))
    if getattr(numpy, "ndarray", None) not in mro:
        return None
    if type(value) not in {numpy.ndarray, numpy.memmap}:
        raise Refusal(
            f"it is a `{type_name(type(value))}`, which may hold more than its numbers; send a plain "
            "`numpy.ndarray` instead"
        )
    return Ext(ARRAY, _pack_array(numpy, value))


def _pack_array(numpy: ModuleType, array: np.ndarray[Any, Any]) -> bytes:
    if array.dtype.kind not in _KINDS:
        raise Refusal(
            f"it is a numpy array of dtype `{array.dtype}`; only numbers, booleans, dates and strings of "
            "fixed size can be sent, so send `array.tolist()` instead"
        )
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    head = pack([array.dtype.str, array.shape, fortran])
    flat = numpy.ascontiguousarray(array.T if fortran else array).reshape(-1)
    # Bytes of length 0 have no view; dates have no buffer of their own.
    body = flat.view("u1").data if flat.nbytes else b""
    return b"".join([len(head).to_bytes(2, "big"), head, body])


def _read_array(payload: memoryview) -> np.ndarray[Any, Any]:
    numpy = _numpy()
    end = 2 + int.from_bytes(payload[:2], "big")
    name, shape, fortran = unpack(payload[2:end])
    body = payload[end:]
    if not _DTYPE.fullmatch(name):
        raise WireError("malformed value: the dtype of an array")
    dtype = numpy.dtype(name)
    if any(type(size) is not int or size < 0 for size in shape):
        raise WireError("malformed value: the shape of an array")
    if math.prod(shape) * dtype.itemsize != len(body):
        raise WireError("malformed value: the size of an array")
    # The copy is aligned, can be written to, and does not keep the whole message alive.
    array: np.ndarray[Any, Any] = numpy.ndarray(
        shape, dtype, buffer=body, order="F" if fortran else "C"
    ).copy("K")
    if dtype.kind == "U" and body and numpy.frombuffer(body, f"{name[0]}u4").max() > sys.maxunicode:
        raise WireError("malformed value: the characters of an array")
    return array


def _read_number(payload: memoryview) -> Any:
    array = _read_array(payload)
    if array.shape:
        raise WireError("malformed value: a scalar with a shape")
    return array[()]


def _read_text(payload: memoryview) -> Any:
    text = unpack(payload)
    numpy = _numpy()
    if type(text) is str:
        return numpy.str_(text)
    if type(text) is bytes:
        return numpy.bytes_(text)
    raise WireError("malformed value: a numpy string")


def _numpy() -> ModuleType:
    try:
        return importlib.import_module("numpy")
    except ImportError:
        raise WireError("this value holds a numpy array, and numpy is not installed here") from None


#: How to read the payload of an extension back; malformed ones raise anything.
READERS: dict[int, Callable[[memoryview], Any]] = {
    ARRAY: _read_array,
    NUMBER: _read_number,
    TEXT: _read_text,
}
