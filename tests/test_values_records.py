"""Records between the processes: whole where their classes are known, plain data where they are not."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from dspex.wire.values import Unsendable, WireError, decode
from tests.values import (
    Box,
    Color,
    FrozenModel,
    Late,
    Level,
    Model,
    Mood,
    Numbers,
    Odd,
    Ordered,
    Perm,
    Point,
    Solid,
    Strict,
    Tagged,
    arrives,
    encode,
    encode_result,
    model,
    travel,
)


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
        "tests.values:Point": Point,
        "tests.values:Color": Color,
        "tests.values:Box[int]": Box[int],
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
