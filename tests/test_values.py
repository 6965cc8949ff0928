"""Values between the processes: all of them arrive as they were, and nothing else is ever built."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import math
import pickle
import socket
import subprocess
import sys
import threading
from collections import Counter, OrderedDict, defaultdict
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pydantic
import pydantic.dataclasses
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from msgspec.msgpack import Ext

from dspex.errors import InvalidInput, ResultTooLarge
from dspex.wire.values import MAX_DEPTH, Encoded, Unsendable, WireError, decode, encode, encode_result

T = TypeVar("T")

SLOW_OK = [HealthCheck.too_slow, HealthCheck.data_too_large]
ROUND_TRIP = settings(deadline=None, max_examples=200, suppress_health_check=SLOW_OK)
FUZZ = settings(deadline=None, max_examples=400, suppress_health_check=SLOW_OK)


class Color(enum.Enum):
    """A plain enum with an alias."""

    RED = "r"
    BLUE = ("b", 1)
    ROUGE = "r"  # noqa: PIE796


#: An enum whose values cannot be keys.
Odd = enum.Enum("Odd", {"LIST": [1, [2]], "SET": {3}})


class Level(enum.IntEnum):
    """An enum whose members are integers."""

    LOW = 1
    HIGH = 2**70


class Mood(enum.StrEnum):
    """An enum whose members are strings."""

    GOOD = "good"
    BAD = "bad"


class Perm(enum.Flag):
    """Flags that combine."""

    R = 4
    W = 2
    X = 1


class Bits(enum.IntFlag):
    """Flags that keep bits they do not know."""

    ONE = 1
    TWO = 2


@dataclasses.dataclass(frozen=True)
class Point:
    """Can be a key."""

    x: Any
    y: Any = 0


@dataclasses.dataclass(frozen=True)
class Solid(Point):
    """Inherits fields."""

    z: Any = 0


@dataclasses.dataclass(slots=True)
class Slotted:
    """Has no ``__dict__``."""

    id: Any
    error: Any = None
    type: Any = None


@dataclasses.dataclass
class Late:
    """Has fields that its constructor does not take, and one that may have no value."""

    given: Any
    source: dataclasses.InitVar[int] = 5
    doubled: int = dataclasses.field(init=False)
    unset: int = dataclasses.field(init=False)

    def __post_init__(self, source: int) -> None:
        self.doubled = 2 * source


class Tagged(msgspec.Struct, frozen=True, tag="thing", rename="camel"):
    """A Struct that is encoded differently by msgspec itself."""

    long_name: Any
    maybe: Any = msgspec.UNSET


class Ordered(msgspec.Struct, kw_only=True):
    """A Struct that changes what it is given."""

    count: int

    def __post_init__(self) -> None:
        self.count += 1


class Model(pydantic.BaseModel):
    """A model that keeps more than its fields."""

    model_config = pydantic.ConfigDict(extra="allow")

    name: Any = pydantic.Field(alias="theName")
    child: Model | None = None
    tags: Any = None
    _seen: int = 0
    _never: int = pydantic.PrivateAttr()

    @cached_property
    def shout(self) -> str:
        """A value that is kept in ``__dict__`` and is no field."""
        return str(self.name).upper()


def model(name: Any, **more: Any) -> Model:
    """A ``Model`` whose values are taken as they are."""
    return Model.model_validate({"theName": name, **more})


class FrozenModel(pydantic.BaseModel):
    """A model that can be a key."""

    model_config = pydantic.ConfigDict(frozen=True)

    number: int = 1
    other: int = 2


class Box(pydantic.BaseModel, Generic[T]):
    """A generic model."""

    content: T


class Numbers(pydantic.RootModel[list[int]]):
    """A model that is one value."""


class Strict(pydantic.BaseModel):
    """A model whose own code must not run on the way."""

    value: int
    post: bool = False

    @pydantic.field_validator("value")
    @classmethod
    def _small(cls, value: int) -> int:
        if value > 10:
            raise ValueError("too large")
        return value

    def model_post_init(self, context: Any, /) -> None:
        """Leaves a trace."""
        self.post = True


@pydantic.dataclasses.dataclass
class Checked:
    """A dataclass of pydantic's."""

    n: int
    s: str = "s"


class Pair(NamedTuple):
    """A named tuple."""

    a: int
    b: int


ALL_TYPES: dict[str, type] = {
    f"{kind.__module__}:{kind.__qualname__}": kind
    for kind in (
        *(Color, Level, Mood, Perm, Bits, Point, Solid, Slotted, Late, Tagged, Ordered),
        *(Model, FrozenModel, Box, Box[int], Numbers, Strict, Checked),
    )
}


def form(value: Any) -> Any:
    """A value as something that is equal only to the form of the very same value, NaN included."""
    kind = type(value)
    if kind is float:
        return kind, "nan" if math.isnan(value) else value.hex()
    if kind is int:
        return kind, hex(value)
    if kind is complex:
        return kind, form(value.real), form(value.imag)
    if kind in {list, tuple}:
        return kind, [form(item) for item in value]
    if kind in {set, frozenset}:
        return kind, sorted((form(item) for item in value), key=repr)
    if kind is dict:
        return kind, [(form(key), form(item)) for key, item in value.items()]
    if kind is np.ndarray:
        return kind, value.dtype.str, value.shape, value.flags.f_contiguous, repr(value.tolist())
    if isinstance(value, np.generic):
        return kind, value.dtype.str, repr(value)
    if kind in {datetime, time}:
        return kind, repr(value)
    if isinstance(value, enum.Enum):
        return kind, id(value)
    if isinstance(value, pydantic.BaseModel):
        private = {
            name: item
            for name, item in (value.__pydantic_private__ or {}).items()
            if "Undefined" not in type(item).__name__
        }
        fields = {name: item for name, item in value.__dict__.items() if name in kind.model_fields}
        return kind, form(fields), form(value.__pydantic_extra__), form(value.model_fields_set), form(private)
    if isinstance(value, msgspec.Struct):
        return kind, [(name, form(getattr(value, name))) for name in value.__struct_fields__]
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return kind, [(name, form(getattr(value, name, "unset"))) for name in names]
    return kind, str(value)


def travel(value: Any) -> Any:
    """The value after it was sent, where its classes are known."""
    encoded = encode(value)
    return decode(encoded.data, encoded.types)


def arrives(value: Any) -> bool:
    """Whether it comes out as the very same value."""
    return bool(form(travel(value)) == form(value))


ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"]
LIMITS = [2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64, -(2**64), 255, -128]

folds = st.integers(0, 1)
offsets = st.timedeltas(timedelta(hours=-23), timedelta(hours=23))
fixed = st.one_of(offsets.map(timezone), st.builds(timezone, offsets, st.text(max_size=5)))
zones = st.one_of(st.none(), fixed, st.sampled_from(ZONES).map(ZoneInfo))
moments = st.one_of(st.datetimes(timezones=zones), st.times(timezones=zones))
integers = st.one_of(st.integers(), st.sampled_from(LIMITS), st.integers(-(2**300), 2**300))
flags = st.one_of(st.integers(0, 7).map(Perm), st.integers(-300, 300).map(Bits))
leaves = st.one_of(
    st.one_of(st.none(), st.booleans(), integers, st.floats(), st.text(), st.binary(), st.complex_numbers()),
    st.builds(lambda moment, fold: moment.replace(fold=fold), moments, folds),
    st.one_of(st.dates(), st.timedeltas(), st.decimals(allow_nan=False), st.uuids()),
    st.one_of(st.sampled_from([*Color, *Level, *Mood]), flags),
)
keys = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.frozensets(inner, max_size=3),
        st.builds(Point, inner, inner),
        st.builds(Tagged, inner),
        st.builds(FrozenModel, number=st.integers()),
    ),
    max_leaves=4,
)
dtypes = st.one_of(
    npst.boolean_dtypes(),
    npst.integer_dtypes(endianness="?"),
    npst.unsigned_integer_dtypes(endianness="?"),
    npst.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    npst.complex_number_dtypes(endianness="?"),
    npst.datetime64_dtypes(endianness="?"),
    npst.timedelta64_dtypes(endianness="?"),
    npst.byte_string_dtypes(max_len=5),
    npst.unicode_string_dtypes(endianness="?", max_len=5),
)
arrays = npst.arrays(dtypes, npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
extras = st.text(max_size=5).filter(lambda name: name not in {"name", "theName", "child", "tags"})
values = st.recursive(
    st.one_of(leaves, st.decimals()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.one_of(st.text(), keys), inner, max_size=4),
        st.one_of(st.sets(keys, max_size=4), st.frozensets(keys, max_size=4)),
        st.one_of(st.builds(Solid, inner, inner, inner), st.builds(Slotted, inner, inner, inner)),
        st.builds(Tagged, inner, inner),
        st.builds(lambda name, more: model(name, **more), inner, st.dictionaries(extras, inner, max_size=3)),
        st.builds(Box, content=inner),
    ),
    max_leaves=20,
)


@ROUND_TRIP
@given(values)
def test_round_trip(value: Any) -> None:
    """A caller's value would reach the worker as another one."""
    assert arrives(value)


@ROUND_TRIP
@given(values)
def test_results_round_trip(value: Any) -> None:
    """A worker's answer would reach the caller as another one, or with a marker where none is needed."""
    assert form(decode(encode_result(value), ALL_TYPES)) == form(value)


@ROUND_TRIP
@given(values)
def test_without_the_classes_only_builtin_types_are_built(value: Any) -> None:
    """A process that was not given a class would get an instance of it, or nothing at all."""
    seen: set[type] = set()

    def look(part: Any) -> None:
        seen.add(type(part))
        if isinstance(part, dict):
            look([*part, *part.values()])
        elif isinstance(part, list | tuple | set | frozenset):
            for item in part:
                look(item)

    try:
        look(decode(encode(value).data))
    except WireError as error:
        # Two keys that differed only in their classes.
        assert "once their own classes are gone" in str(error)  # noqa: PT017
    assert not seen & set(ALL_TYPES.values())


@ROUND_TRIP
@given(arrays)
def test_arrays_round_trip(array: np.ndarray[Any, Any]) -> None:
    """An array would arrive with other numbers, another dtype, shape or order."""
    strided = array[..., ::2] if array.ndim else array
    assert arrives(array)
    assert arrives(array.T)
    assert arrives(list(array.reshape(-1)[:3]))
    assert form(travel(strided)) == form(strided.copy())


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
    for content in ([f"{__name__}:Color", "GREEN", 1], [f"{__name__}:Color", None, "green"]):
        with pytest.raises(WireError):
            decode(msgspec.msgpack.encode(extension(36, content)), types)
    for name in ("a:b", f"{__name__}:Point"):
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
    record = msgspec.msgpack.encode(extension(37, [f"{__name__}:{name}", fields]))
    with pytest.raises(WireError):
        decode(record, ALL_TYPES)


def test_a_model_takes_its_own_attributes_only() -> None:
    """A message could set any attribute of a pydantic model."""
    name = f"{__name__}:Model"
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


def test_neither_pydantic_nor_numpy_is_imported() -> None:
    """A thin caller would pay for imports that nothing in its values needs."""
    code = (
        "import sys, dataclasses, enum\n"
        "from dspex.wire.values import decode, encode, encode_result\n"
        "E = enum.Enum('E', 'A')\n"
        "D = dataclasses.make_dataclass('D', ['x'])\n"
        "sent = encode([D(1), E.A, {1, 2}])\n"
        "assert decode(sent.data, sent.types) == [D(1), E.A, {1, 2}]\n"
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


TRICKY: list[Any] = [math.nan, [math.nan, -0.0], complex(-0.0, math.nan), complex(math.inf, -0.0)]
TRICKY += [2**64, -(2**63) - 1, 10**5000, -(10**5000), {2**80: 1}, {True: 1, 0: 2}]
TRICKY += [{"a": True, "b": 1, "c": 1.0}, [True, 1, 1.0, Level.LOW, Bits.ONE, np.True_, np.int8(1)]]
TRICKY += [(), ((),), {()}, {1: {2: (3,)}}, {(1, (2, 3)): {frozenset({4})}}, {frozenset(): set()}]
TRICKY += [
    datetime(1, 1, 1),  # noqa: DTZ001
    datetime(2024, 10, 27, 2, 30, fold=1),  # noqa: DTZ001
    datetime(9999, 12, 31, 23, 59, 59, 999999, UTC),
    datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=-5, seconds=1, microseconds=7), "odd")),
]
TRICKY += [time(23, 59, 59, 1, ZoneInfo("Asia/Kolkata"), fold=1), time(0, tzinfo=UTC), date.min, date.max]
TRICKY += [timedelta.min, timedelta.max, timedelta(microseconds=-1), UUID(int=0), UUID(int=2**128 - 1)]
TRICKY += map(Decimal, ("NaN", "sNaN123", "-Infinity", "1E+999999", "-0.00", "1." + "9" * 200))
TRICKY += [Color.RED, Color.ROUGE, Color.BLUE, Level.HIGH, Mood.GOOD, {Color.RED: 1, Level.LOW: 2}]
TRICKY += [Perm.R | Perm.X, Perm(0), ~Perm.R, Bits(1024 | 1), {Perm.R | Perm.W}]
TRICKY += [Point(1), Solid(1, 2, 3), Slotted("id", "error", "type"), Late(1), Late(1, 9), Checked(1, "t")]
TRICKY += [Point([Point({1: Point(2)})]), {Point(1): {Solid(1, 2)}, (Point((1, 2)),): frozenset({Color.RED})}]
TRICKY += [Tagged(1), Tagged([Tagged(msgspec.UNSET)], None), [msgspec.UNSET]]
TRICKY += [FrozenModel(), FrozenModel(number=1), {FrozenModel(other=3): {FrozenModel()}}]
TRICKY += [Box[int](content=1), Box(content=Box[int](content=1)), Numbers([1, 2]), [Numbers([])]]
TRICKY += [model("n", child=model(b"x", tags=(1, 2)), id=1, error=2, __class__=3)]
TRICKY += [
    np.array(3.5),
    np.array([]),
    np.zeros((0, 3, 0), ">i2"),
    np.array(["a", "né"]),
    np.array([b"x\0y"]),
]
TRICKY += [np.array(["2020", "NaT"], "M8[25s]"), np.array([1, 2], ">m8[us]"), np.array([1j, 2], ">c8")]
TRICKY += [np.asfortranarray(np.arange(6).reshape(2, 3)), np.arange(6).reshape(2, 3).T, np.empty(3, "S0")]
TRICKY += [
    np.float64(-0.0),
    np.longdouble("0.1"),
    np.datetime64("NaT", "D"),
    np.timedelta64(3, "s"),
    np.True_,
]
TRICKY += [np.str_("a\0"), np.bytes_(b"a\0"), np.str_("")]
TRICKY += [{np.int64(1): np.str_("x"), np.float32(2.5): np.uint8(255)}]


@pytest.mark.parametrize("value", TRICKY, ids=lambda value: type(value).__name__)
def test_tricky_values(value: Any) -> None:
    """This very value would arrive as another one."""
    assert arrives(value)
    assert form(decode(encode_result([value]), ALL_TYPES)) == form([value])


def test_large_values() -> None:
    """A long document would be cut, or refused."""
    text = "é\0" * 5_000_000
    assert travel({"text": text, "data": (text.encode(),)}) == {"text": text, "data": (text.encode(),)}


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


class Sub(str):
    """A string with more to it."""

    __slots__ = ()

    def __str__(self) -> str:
        return "lie"


class Celsius(float):
    """A number with a unit."""


class Count(int):
    """A number that lies about itself."""

    def __int__(self) -> int:
        return 0


class Moment(datetime):
    """A datetime of some library."""


class Offset(tzinfo):
    """A time zone of some library."""

    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta(hours=2)

    def tzname(self, _: datetime | None) -> str:
        return "SOME"

    def dst(self, _: datetime | None) -> None:
        return None


SIMPLER: list[tuple[Any, Any]] = [(bytearray(b"a"), b"a"), (memoryview(b"abcd")[::2], b"ac")]
SIMPLER += [(Sub("a"), "a"), (Count(2**70), 2**70), (Celsius(-0.0), -0.0), (Pair(1, 2), (1, 2))]
SIMPLER += [({Pair(1, 2): Sub("x")}, {(1, 2): "x"}), ({Sub("k"): {Sub("e")}}, {"k": {"e"}})]
SIMPLER += [(OrderedDict(a=1), {"a": 1}), (defaultdict(list, {1: [Sub("a")]}), {1: ["a"]})]
SIMPLER += [(Counter("aab"), {"a": 2, "b": 1}), (type("L", (list,), {})([(1,)]), [(1,)])]
SIMPLER += [(type("S", (set,), {})([1]), {1}), (type("F", (frozenset,), {})([1]), frozenset([1]))]
SIMPLER += [
    (Moment(2020, 1, 1, tzinfo=UTC, fold=1), datetime(2020, 1, 1, tzinfo=UTC, fold=1)),
    (
        datetime(2020, 1, 1, tzinfo=Offset()),
        datetime(2020, 1, 1, tzinfo=timezone(timedelta(0, 7200), "SOME")),
    ),
    (pydantic.TypeAdapter(datetime).validate_python("2020-01-01T00:00Z"), datetime(2020, 1, 1, tzinfo=UTC)),
    (np.zeros(4).reshape(2, 2)[:, 0], np.zeros(2)),
    (np.broadcast_to(np.int16(7), (2, 2)), np.full((2, 2), 7, np.int16)),
]


@pytest.mark.parametrize(("value", "arrival"), SIMPLER, ids=lambda value: type(value).__name__)
def test_what_arrives_simpler(value: Any, arrival: Any) -> None:
    """The documented simplifications would be others."""
    assert form(travel(value)) == form(arrival)


def test_models_keep_everything() -> None:
    """A pydantic model would lose what is not a field, or gain what was never set."""
    sent = model("n", other=(1, 2))
    sent._seen = 7
    assert sent.shout == "N"
    got = travel(sent)
    assert got == sent
    assert isinstance(got, Model)
    assert (got._seen, got.model_extra, got.model_fields_set) == (7, {"other": (1, 2)}, {"name", "other"})
    assert "shout" not in got.__dict__
    assert got.model_copy(update={"tags": 1}).model_dump(by_alias=True)["theName"] == "n"
    with pytest.raises(AttributeError):
        _ = got._never
    root = travel(Numbers([1]))
    assert root == Numbers([1])
    assert root.model_dump_json() == "[1]"


def test_no_code_of_a_record_runs() -> None:
    """A validator or constructor would run again on the way, and refuse or change what it already took."""
    strict = Strict.model_construct(value=99)
    strict.post = False
    assert (travel(strict).value, travel(strict).post) == (99, False)
    late = Late(1)
    late.doubled = -1
    assert (travel(late).doubled, hasattr(travel(late), "unset")) == (-1, False)
    ordered = Ordered(count=1)
    assert (ordered.count, travel(ordered).count) == (2, 2)


def test_unknown_records_come_as_plain_data() -> None:
    """A worker without the caller's classes could not use what it was sent."""
    value = [Solid(1, Point(2), 3), Tagged(1, None), model("n", more=1), Numbers([1]), Color.BLUE, Mood.GOOD]
    value += [Perm.R | Perm.W, {Point(1): 1}, {Tagged(1, 2)}, {(Point((Color.RED,)),): 1}]
    value += [{Odd.LIST: 1}, {Odd.SET}]
    assert decode(encode(value).data) == [
        {"x": 1, "y": {"x": 2, "y": 0}, "z": 3},
        {"long_name": 1, "maybe": None},
        {"name": "n", "child": None, "tags": None, "more": 1},
        {"root": [1]},
        *(("b", 1), "good", 6),
        {(("x", 1), ("y", 0)): 1},
        {(("long_name", 1), ("maybe", 2))},
        {((("x", ("r",)), ("y", 0)),): 1},
        *({(1, (2,)): 1}, {frozenset({3})}),
    ]


@pytest.mark.parametrize(
    ("value", "what"),
    [({Level.LOW: 1, 1.5: 2, Perm.X: 3}, "keys"), ({Level.LOW, Perm.X}, "elements")],
)
def test_keys_that_fall_into_one(value: Any, what: str) -> None:
    """An entry would be lost in silence where the classes of its keys are unknown."""
    encoded = encode(value)
    assert decode(encoded.data, encoded.types) == value
    with pytest.raises(WireError, match=f"two {what} of a"):
        decode(encoded.data)


PLACES: list[Any] = [lambda record: record, lambda record: [0, record], lambda record: {"a": {"b": record}}]
PLACES += [lambda record: (record,), lambda record: {record}, lambda record: {record: 1}, Point, Tagged]
PLACES += [model, lambda record: {(1, record): 1}]
PLACES += [lambda record: frozenset({(Solid(1, record),)})]


@pytest.mark.parametrize("place", PLACES, ids=range(len(PLACES)))
@pytest.mark.parametrize("record", [Point(1), Tagged(1), FrozenModel(), Color.RED, Perm.R | Perm.X], ids=repr)
def test_records_in_every_place(place: Any, record: Any) -> None:
    """A record would be rebuilt in some places only."""
    assert arrives(place(record))


def test_types_are_named_by_module_and_qualname() -> None:
    """An answer could not be matched with the class that the caller sent."""
    encoded = encode({"a": [Point(1)], Color.RED: Box[int](content=1)})
    assert encoded.types == {
        f"{__name__}:Point": Point,
        f"{__name__}:Color": Color,
        f"{__name__}:Box[int]": Box[int],
    }
    assert encode([1, "a", (1,), np.zeros(1), datetime.now(UTC)]).types == {}
    answer = encode_result({"best": Point(2), "other": Solid(1)})
    assert decode(answer, encoded.types) == {"best": Point(2), "other": {"x": 1, "y": 0, "z": 0}}


def test_two_classes_of_one_name() -> None:
    """A record would be rebuilt as another class that has its name."""

    def make(default: int) -> Any:
        @dataclasses.dataclass
        class Made:
            x: int = default

        return Made

    first, second, third = make(1), make(2), make(3)
    encoded = encode([first(), second(), third(), second(5), {"deep": first(6)}])
    assert sorted(name.rpartition("Made")[2] for name in encoded.types) == ["", "#2", "#3"]
    got = decode(encoded.data, encoded.types)
    assert [type(part) for part in got[:4]] == [first, second, third, second]
    assert type(got[4]["deep"]) is first
    assert [part.x for part in got[:4]] == [1, 2, 3, 5]


def test_classes_named_like_ours() -> None:
    """A class of the user's would be taken for one of ours."""
    marker = dataclasses.make_dataclass("Unsendable", ["type_name"], frozen=True)
    marker.__module__ = Unsendable.__module__
    encoded = encode([marker("mine"), Unsendable("ours"), {"type_name": "plain"}])
    got = decode(encoded.data, encoded.types)
    assert [type(part) for part in got] == [marker, Unsendable, dict]
    assert decode(encoded.data)[0] == {"type_name": "mine"}


class Hostile:
    """Fails whatever is asked of it."""

    def __repr__(self) -> str:
        raise AssertionError("somebody asked for a repr")

    __str__ = __repr__


@dataclasses.dataclass
class Failing:
    """Its fields cannot be read."""

    x: int = 1

    def __getattribute__(self, name: str) -> Any:
        if name == "x":
            raise RuntimeError("canary")
        return super().__getattribute__(name)


@dataclasses.dataclass
class DictRecord(dict[str, int]):
    """A record and a dict at once."""

    x: int = 1


class WithCallable(enum.Enum):
    """Its values cannot be sent."""

    OP = (len,)


def private_lock() -> Model:
    """A model with a private attribute that cannot be sent."""
    holder = model(1)
    holder._seen = threading.Lock()  # type: ignore[assignment]
    return holder


REFUSED: list[tuple[Any, str, str]] = [
    (Hostile(), "", f"{__name__}.Hostile"),
    ({"a": [0, {"b c": (1, Hostile())}]}, ".a[1]['b c'][1]", f"{__name__}.Hostile"),
    ({1: {None: [len]}}, "[1][None][0]", "builtin_function_or_method"),
    ({"t": {Hostile(): 1}}, ".t (a key)", f"{__name__}.Hostile"),
    ({"t": {(1, Hostile())}}, ".t (an element)[1]", f"{__name__}.Hostile"),
    ({Point(1): Hostile()}, f"[a `{__name__}.Point`]", f"{__name__}.Hostile"),
    ({2**5000: Hostile()}, "[a `int`]", f"{__name__}.Hostile"),
    ({"x" * 99: object()}, "['" + "x" * 60 + "'…]", "object"),
    (Point(1, Slotted(type=object(), id=1)), ".y.type", "object"),
    (model(Tagged(object())), ".name.long_name", "object"),
    (model(1, more=[object()]), ".more[0]", "object"),
    (private_lock(), "._seen", "_thread.lock"),
    (WithCallable.OP, ".value[0]", "builtin_function_or_method"),
    ([Failing()], "[0]", "RuntimeError"),
    ([DictRecord()], "[0]", "also a `dict`"),
    ([ValueError("x")], "[0]", "ValueError"),
    ([type], "[0]", "`type`"),
    ([MappingProxyType({})], "[0]", "mappingproxy"),
    ([Path("a")], "[0]", "str(path)"),
    ([(n for n in [1])], "[0]", "a list of what it gives"),
    ([range(3)], "[0]", "`list(...)`"),
    ([pydantic.SecretStr("canary")], "[0]", "SecretStr"),
    ([Ext(1, b"")], "[0]", "Ext"),
    ([msgspec.Raw(b"\xc0")], "[0]", "Raw"),
    ([np.array([object()])], "[0]", "dtype `object`"),
    ([np.zeros(2, "i4,f8")], "[0]", "tolist"),
    ([np.zeros(2, "i4,f8")[0]], "[0]", "dtype"),
    ([np.ma.masked_array([1, 2], [True, False])], "[0]", "MaskedArray"),
    (["ok", "é\ud800"], "[1]", "lone surrogate U+D800 at index 1"),
    ({"\udfff": 1}, " (a key)", "lone surrogate U+DFFF at index 0"),
    ({"a": {"b": 2**99, "c": (1, "\ud800")}}, ".a.c[1]", "lone surrogate"),
    ([time(1, tzinfo=type("Z", (Offset,), {"utcoffset": lambda *_: None})())], "[0]", "without an offset"),
    ([datetime(2020, 1, 1, tzinfo=timezone(timedelta(1, -1), "\ud800"))], "[0]", "UnicodeEncodeError"),
]


@pytest.mark.parametrize(("value", "path", "what"), REFUSED, ids=range(len(REFUSED)))
def test_refusals_name_the_place(value: Any, path: str, what: str) -> None:
    """A caller could not find what cannot be sent, or would read the content of it in a message."""
    with pytest.raises(InvalidInput) as caught:
        encode(value, where="inputs")
    message = str(caught.value)
    assert message.startswith(f"inputs{path}: cannot be sent: it is a ") or "time zone" in message
    assert what in message
    assert "canary" not in message
    assert caught.value.details == {"path": f"inputs{path}"}


def test_the_message_of_a_refusal() -> None:
    """The message would not say what to do."""
    with socket.socket() as held, pytest.raises(InvalidInput) as caught:
        encode({"context": [1, 2, 3, Slotted(1, error={"owner": held})]}, where="inputs")
    assert str(caught.value) == (
        "inputs.context[3].error.owner: cannot be sent: it is a `socket.socket`; "
        "send plain data, a dataclass or a pydantic model instead"
    )


@pytest.mark.parametrize(("value", "path", "what"), REFUSED, ids=range(len(REFUSED)))
def test_results_carry_a_marker_instead(value: Any, path: str, what: str) -> None:
    """One part that cannot be sent would lose a whole answer, or its content would leave the worker."""
    data = encode_result({"before": (1,), "value": value, "after": 2})
    assert b"canary" not in data
    got = decode(data, ALL_TYPES)
    assert (got["before"], got["after"]) == ((1,), 2)
    assert "Unsendable" in repr((got["value"], getattr(got["value"], "_seen", None)))


def test_a_marker_takes_the_place_of_the_smallest_part() -> None:
    """More of an answer than necessary would be lost."""
    value = {
        "a": [1, Hostile(), 3],
        "b": Point(Hostile(), "y"),
        "k": {Hostile(): 1},
        "s": {1, Hostile()},
        "t": "\ud800",
    }
    mine = Unsendable(f"{__name__}.Hostile")
    assert decode(encode_result(value), ALL_TYPES) == {
        "a": [1, mine, 3],
        "b": Point(mine, "y"),
        "k": Unsendable("dict"),
        "s": Unsendable("set"),
        "t": Unsendable("str"),
    }
    assert decode(encode_result(Hostile())) == mine
    assert decode(encode_result(mine)) == mine
    assert travel([mine]) == [mine]
    with pytest.raises(AttributeError):
        mine.type_name = "other"  # type: ignore[misc]


def nested(levels: int, wrap: Any) -> Any:
    """A number inside that many containers."""
    value: Any = 1
    for _ in range(levels):
        value = wrap(value)
    return value


WRAPS: list[Any] = [lambda inner: [inner], lambda inner: {"k": inner}, lambda inner: (inner,), Point, Tagged]
WRAPS += [lambda inner: frozenset({inner}), lambda inner: {date.min: inner}]
WRAPS += [lambda inner: Box.model_construct(content=inner)]


@pytest.mark.parametrize("wrap", WRAPS, ids=range(len(WRAPS)))
def test_depth(wrap: Any) -> None:
    """A deep value would overflow the stack, or one that is allowed would be refused."""
    deepest = encode(nested(MAX_DEPTH, wrap))
    assert encode(decode(deepest.data, deepest.types)) == deepest
    assert decode(deepest.data) is not None
    too_deep = nested(MAX_DEPTH + 1, wrap)
    with pytest.raises(InvalidInput, match="cannot be sent: it is nested deeper than 200 levels") as caught:
        encode(too_deep)
    assert len(str(caught.value)) < 1_000
    with pytest.raises(ResultTooLarge, match="deeper than 200"):
        encode_result([too_deep])


def test_more_than_messagepack_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value beyond 4 GiB would raise an error of msgspec's at the caller."""

    def pack(_: Any) -> bytes:
        raise msgspec.EncodeError("Can't encode strings longer than 2**32 - 1")

    monkeypatch.setattr("dspex.wire.pieces.pack", pack)
    with pytest.raises(InvalidInput, match="larger than 4 GiB"):
        encode("x")
    with pytest.raises(ResultTooLarge, match="larger than 4 GiB"):
        encode_result("x")


def test_a_value_that_contains_itself() -> None:
    """A cycle would be sent for ever, or its place would not be told."""
    loop: dict[str, Any] = {"a": [1]}
    loop["a"].append({"back": loop})
    looped = model(1)
    looped.tags = (looped,)
    late = Late(1)
    late.given = {"me": late}
    for value, path in (({"x": loop}, ".x.a[1].back"), (looped, ".tags[0]"), ([late], "[0].given.me")):
        with pytest.raises(InvalidInput) as caught:
            encode(value, where="inputs")
        assert str(caught.value) == f"inputs{path}: cannot be sent: it contains itself"
        with pytest.raises(ResultTooLarge, match="contains itself"):
            encode_result(value)


def test_little_stack_left() -> None:
    """A caller that is deep in calls itself would not be told why a value of allowed depth is refused."""
    value = nested(MAX_DEPTH, WRAPS[2])
    outcomes: set[str] = set()

    def descend() -> None:
        # A `RecursionError` also comes where too little is left to call anything at all.
        with contextlib.suppress(RecursionError):
            descend()
        try:
            outcomes.add(f"sent {len(encode(value).data)}")
        except InvalidInput as error:
            outcomes.add(str(error))
        except RecursionError:
            pass

    descend()
    assert outcomes == {
        f"sent {len(encode(value).data)}",
        "value: cannot be sent: it is nested too deep for what is left of the stack",
    }


def test_one_object_twice_is_no_cycle() -> None:
    """A value that is merely shared would be refused."""
    shared = [Point(1)]
    assert travel([shared, shared, {"a": shared}]) == [shared, shared, {"a": shared}]


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
