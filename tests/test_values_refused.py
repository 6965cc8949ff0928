"""Values that cannot be sent: the caller is told which part, an answer has a marker in its place."""

from __future__ import annotations

import dataclasses
import enum
import socket
import threading
from datetime import datetime, time, timedelta, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import pydantic
import pytest
from msgspec.msgpack import Ext

from dspex.errors import InvalidInput
from dspex.wire.values import Unsendable, decode
from tests.values import (
    ALL_TYPES,
    Hostile,
    Model,
    Offset,
    Point,
    Slotted,
    Tagged,
    encode,
    encode_result,
    model,
    travel,
)


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
    (Hostile(), "", "tests.values.Hostile"),
    ({"a": [0, {"b c": (1, Hostile())}]}, ".a[1]['b c'][1]", "tests.values.Hostile"),
    ({1: {None: [len]}}, "[1][None][0]", "builtin_function_or_method"),
    ({"t": {Hostile(): 1}}, ".t (a key)", "tests.values.Hostile"),
    ({"t": {(1, Hostile())}}, ".t (an element)[1]", "tests.values.Hostile"),
    ({Point(1): Hostile()}, "[a `tests.values.Point`]", "tests.values.Hostile"),
    ({2**5000: Hostile()}, "[a `int`]", "tests.values.Hostile"),
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
    mine = Unsendable("tests.values.Hostile")
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
