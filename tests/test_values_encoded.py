"""What a value is while it is sent, and what sending it needs and leaves alone."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from typing import Any

import msgspec
import numpy as np
import pytest

from dspex.wire.values import Unsendable, WireError, decode
from tests.values import Encoded, Hostile, Point, encode, encode_result, form, travel

PLAIN_VALUES: list[Any] = [None, True, False, 0, -1, 2**64 - 1, -(2**63), 1.5, -0.0, math.inf, -math.inf]
PLAIN_VALUES += ["", "a\0b", "é🎈", b"\0\xff", [], {}, [1, [2, [3]]], {"a": {"b": [None]}}]
PLAIN_VALUES += [{1: "a", None: "b", 2.5: "c", b"k": "d", False: "e"}]
PLAIN_VALUES += [{"id": 1, "error": 2, "type": 3, "__class__": 4, "__reduce__": 5, "": 6}]


@pytest.mark.parametrize("value", PLAIN_VALUES, ids=range(len(PLAIN_VALUES)))
def test_plain_values_are_plain_messagepack(value: Any) -> None:
    """Plain data would pay for a form that it does not need."""
    encoded = encode(value)
    assert encoded == Encoded(msgspec.msgpack.encode(value), {})
    assert encode_result(value) == encoded.data
    assert form(decode(encoded.data)) == form(value)


@pytest.mark.parametrize("view", [bytes, memoryview, bytearray, msgspec.Raw], ids=lambda view: view.__name__)
def test_any_buffer_is_read(view: Any) -> None:
    """A value that is still in its frame would have to be copied to be read."""
    value = {"a": (1, Point(2)), "b": np.arange(3), "c": [Unsendable("x")]}
    encoded = encode(value)
    got = decode(view(encoded.data), encoded.types)
    assert form(got) == form(value)
    frame = bytearray(b"head" + encoded.data + b"tail")
    with memoryview(frame) as whole, whole[4:-4] as part:
        got = decode(part, encoded.types)
    frame.clear()  # fails while anything that was built still looks into the frame
    assert form(got) == form(value)
    got["b"][0] = 9
    assert got["b"].flags.owndata


def test_a_value_is_one_messagepack_value() -> None:
    """A value could not be put into a message as ``Raw``."""
    encoded = encode((1, Point(2)))
    message = msgspec.msgpack.encode([1, msgspec.Raw(encoded.data), 2])
    _, raw, _ = msgspec.msgpack.decode(message, type=tuple[int, msgspec.Raw, int])
    assert decode(raw, encoded.types) == (1, Point(2))


def test_encoding_leaves_the_value_alone() -> None:
    """Sending a value would change it in the caller's hands."""
    inner: list[Any] = [(1,), {2}, Point(3)]
    value = {"a": inner, "b": {"c": {4: (5,)}}, "d": 2**99}
    before = form(value)
    for _ in range(2):
        encode(value)
        encode_result([value, Hostile()])
    assert form(value) == before
    assert value["a"] is inner


def test_threads_share_the_codec() -> None:
    """Callers on several threads would get one another's values."""
    wrong: list[Any] = []

    def work(number: int) -> None:
        for _ in range(200):
            value = {"n": number, "t": (number, Point(number)), "s": {number}}
            if travel(value) != value:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_neither_pydantic_nor_numpy_is_imported() -> None:
    """A thin caller would pay for imports that nothing in its values needs."""
    code = (
        "import sys, dataclasses, enum\n"
        "from dspex.wire.values import decode, encode, encode_result\n"
        "E = enum.Enum('E', 'A')\n"
        "D = dataclasses.make_dataclass('D', ['x'])\n"
        "pieces, types = encode([D(1), E.A, {1, 2}])\n"
        "assert decode(b''.join(pieces), types) == [D(1), E.A, {1, 2}]\n"
        "encode_result(object())\n"
        "print([name for name in ('pydantic', 'numpy', 'dspy', 'pickle') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_an_array_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without numpy would not say what it lacks."""
    data = encode([np.zeros(3), np.str_("x")]).data
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(WireError, match="numpy is not installed"):
        decode(data)
    assert travel(("plain",)) == ("plain",)
