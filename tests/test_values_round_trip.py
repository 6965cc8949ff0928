"""Values between the processes: all of them arrive as they were."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, defaultdict
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pydantic
import pytest
from hypothesis import given, settings

from dspex.wire.values import WireError, decode
from tests.value_strategies import SLOW_OK, arrays, values
from tests.values import (
    ALL_TYPES,
    Bits,
    Box,
    Checked,
    Color,
    FrozenModel,
    Late,
    Level,
    Mood,
    Numbers,
    Offset,
    Pair,
    Perm,
    Point,
    Slotted,
    Solid,
    Tagged,
    arrives,
    encode,
    encode_result,
    form,
    model,
    travel,
)

ROUND_TRIP = settings(deadline=None, max_examples=200, suppress_health_check=SLOW_OK)


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
