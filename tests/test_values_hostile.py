"""Messages that are damaged or hostile: only values are ever built, and only ``WireError`` is raised."""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.msgpack import Ext

from dspex.errors import InvalidInput
from dspex.wire.values import WireError, decode
from tests.value_strategies import SLOW_OK, arrays, values
from tests.values import ALL_TYPES, encode, travel

FUZZ = settings(deadline=None, max_examples=400, suppress_health_check=SLOW_OK)

atoms = st.one_of(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(), st.text(max_size=3)),
    st.binary(max_size=20),
)


def extension(code: int, content: Any) -> Ext:
    """An extension whose payload is well-formed."""
    return Ext(code, msgspec.msgpack.encode(content))


senseless = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers(0, 9), st.none()), inner, max_size=3),
        st.builds(Ext, st.integers(-128, 127), st.binary(max_size=20)),
        st.builds(extension, st.sampled_from([*range(-2, 10), *range(15, 20), *range(31, 40)]), inner),
        st.builds(
            lambda code, name, content: extension(code, [name, *content]),
            st.sampled_from([36, 37]),
            st.sampled_from([*ALL_TYPES, "os:system"]),
            st.lists(st.one_of(inner, st.just({"x": 1}), st.just([])), min_size=1, max_size=4),
        ),
    ),
    max_leaves=10,
)


def holds_against(data: bytes) -> None:
    """Decodes it in every way; only ``WireError`` may come of it."""
    for types in (None, ALL_TYPES):
        with contextlib.suppress(WireError):
            decode(data, types)


@FUZZ
@given(st.binary())
def test_arbitrary_bytes_raise_nothing_else(data: bytes) -> None:
    """A corrupt message would take its reader down."""
    holds_against(data)


@FUZZ
@given(senseless)
def test_wrong_content_raises_nothing_else(content: Any) -> None:
    """A message that is well-formed and senseless would take its reader down."""
    holds_against(msgspec.msgpack.encode(content))


@FUZZ
@given(st.one_of(values, arrays), st.data())
def test_damaged_values_raise_nothing_else(value: Any, data: st.DataObject) -> None:
    """A value that was damaged on its way would take its reader down."""
    damaged = bytearray(encode(value).data)
    for _ in range(data.draw(st.integers(1, 4))):
        index = data.draw(st.integers(0, len(damaged)))
        damaged[index : index + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    holds_against(bytes(damaged))


MALFORMED: list[Any] = [b"", b"\xc1", b"\x01\x02", b"\xa1\xff", b"\x91" * 100_000, pickle.dumps([1])]
MALFORMED += [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff"]
MALFORMED += [memoryview(b"\x91\x01\x02")[::2]]
MALFORMED += [
    msgspec.msgpack.encode(part)
    for part in (
        *(extension(99, None), extension(32, None), extension(33, [1, 1]), extension(35, [[1, 1], [2, 2]])),
        extension(5, ["2020-01-01", 0, "../../etc/passwd"]),
        extension(5, ["2020-01-01", 0, "Nowhere/City"]),
        *(extension(37, [1, {}]), extension(37, ["a:b", {1: 2}]), extension(36, [None, "A", 1])),
        extension(33, [Ext(16, b"\x00\x08\x93\xa3<i4\x91\x01\xc2" + bytes(4))]),  # an array cannot be a key
        Ext(16, b"\x00\x07\x93\xa2|O\x91\x01\xc2" + bytes(8)),  # a dtype with objects
        Ext(16, b"\x00\x08\x93\xa3<i4\x91\xff\xc2" + bytes(4)),  # a negative length
        Ext(17, b"\x00\x08\x93\xa3<i4\x91\x01\xc2" + bytes(4)),  # a scalar with a length
        Ext(16, b"\x00\x08\x93\xa3<U1\x91\x01\xc2" + b"\xff" * 4),  # no such character
        Ext(16, b"\x00\x08\x93\xa3<i4\x91\x02\xc2" + bytes(4)),  # more numbers than are there
    )
]


@pytest.mark.parametrize("data", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed(data: bytes | memoryview) -> None:
    """A malformed message would be taken for a value, or raise something that nobody catches."""
    with pytest.raises(WireError):
        decode(data)
    with pytest.raises(WireError):
        decode(data, ALL_TYPES)


def test_extensions_nested_without_end() -> None:
    """A hostile message would overflow the stack."""
    data = b"\xc0"
    for _ in range(2_000):
        data = msgspec.msgpack.encode(Ext(32, b"\x91" + data))
    with pytest.raises(WireError, match="RecursionError"):
        decode(data)


@pytest.mark.parametrize(
    "name", ["os:system", "subprocess:Popen", "antigravity:fly", "this:s", "builtins:eval"]
)
def test_a_name_never_imports_or_builds(name: str) -> None:
    """A name in a message would import a module or call what it names."""
    before = set(sys.modules)
    fields = {"args": ["echo"], "shell": True}
    record = msgspec.msgpack.encode(extension(37, [name, fields]))
    member = msgspec.msgpack.encode(extension(36, [name, "X", fields]))
    for types in (None, ALL_TYPES):
        assert decode(record, types) == fields
        assert decode(member, types) == fields
    assert set(sys.modules) == before


def test_a_class_that_is_no_record_is_never_built() -> None:
    """A class that was handed in would be called with what a message says."""
    types: dict[str, type] = {"a:b": subprocess.Popen, "c:d": dict, **ALL_TYPES}
    for name in ("a:b", "c:d", next(iter(ALL_TYPES))):
        with pytest.raises(WireError):
            decode(msgspec.msgpack.encode(extension(37, [name, {}])), types)
    for content in (["tests.values:Color", "GREEN", 1], ["tests.values:Color", None, "green"]):
        with pytest.raises(WireError):
            decode(msgspec.msgpack.encode(extension(36, content)), types)
    for name in ("a:b", "tests.values:Point"):
        with pytest.raises(WireError):
            decode(msgspec.msgpack.encode(extension(36, [name, None, 1])), types)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("Point", {"__class__": 1}),
        ("Slotted", {"nope": 1}),
        ("Tagged", {"nope": 1}),
        ("Checked", {"n": 1, "m": 2}),
    ],
)
def test_a_record_takes_its_own_fields_only(name: str, fields: dict[str, Any]) -> None:
    """A message could set any attribute of an object."""
    record = msgspec.msgpack.encode(extension(37, [f"tests.values:{name}", fields]))
    with pytest.raises(WireError):
        decode(record, ALL_TYPES)


def test_a_model_takes_its_own_attributes_only() -> None:
    """A message could set any attribute of a pydantic model."""
    name = "tests.values:Model"
    contents: list[list[Any]] = [
        [name, {"__class__": 1}, None, [], None],
        [name, {"name": 1}, None, [], {"_other": 1}],
        [name, {"name": 1}, [1], [], None],
        [name, {"name": 1}],
    ]
    for content in contents:
        with pytest.raises(WireError):
            decode(msgspec.msgpack.encode(extension(37, content)), ALL_TYPES)


def test_nothing_is_unpickled() -> None:
    """Bytes that are a pickle would run code, sent as a value or in place of one."""
    ran: list[int] = []

    class Bomb:
        def __reduce__(self) -> Any:
            return ran.append, (1,)

    with pytest.raises(InvalidInput):
        encode([Bomb()])
    payload = b"\x80\x04c__builtin__\nexit\n(tR."
    assert travel(payload) == payload
    with pytest.raises(WireError):
        decode(payload)
    assert ran == []
