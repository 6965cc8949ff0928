"""Types that users have in their signatures, one of each kind, and signatures that use them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import os
import warnings
from collections.abc import Callable
from typing import Annotated, Any, Generic, Literal, NotRequired, TypeVar

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # before DSPy, which would download it

import dspy
from pydantic import BaseModel, Field, RootModel, field_validator
from typing_extensions import TypedDict

T = TypeVar("T")


class Color(enum.Enum):
    """Colours that are sold."""

    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    """How urgent it is."""

    LOW = 1
    HIGH = 2


class Mixed(enum.Enum):
    """Values of two types, and one name too many."""

    ONE = 1
    TWO = "two"
    ALSO_ONE = 1  # noqa: PIE796 (a second name is what it is here for)


class Line(BaseModel):
    """One line of an order."""

    sku: str = Field(alias="itemNumber", description="as printed on the box", min_length=2)
    price: decimal.Decimal = Field(ge=0)
    day: dt.date
    color: Color = Color.RED
    size: tuple[int, int] = (1, 2)
    tags: set[str] = set()


class Order(BaseModel):
    lines: list[Line]
    parent: Order | None = None
    notes: dict[str, Line] = {}
    placed: dt.datetime = Field(default_factory=lambda: dt.datetime(2024, 1, 2, tzinfo=dt.UTC))
    items: bool = False


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    barks: bool


class Checked(BaseModel):
    """Its validator is code, which does not travel."""

    name: str

    @field_validator("name")
    @classmethod
    def known(cls, name: str) -> str:
        """Refuse a name that nobody has."""
        if name == "nobody":
            raise ValueError("there is nobody of that name")
        return name.title()


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Card(TypedDict):
    title: str
    stars: NotRequired[int]


class Lines(RootModel[list[Line]]):
    """A model around a list."""


class Box(BaseModel, Generic[T]):
    item: T


def line_of_another_module() -> type[BaseModel]:
    """Another class of a name that is taken."""

    class Line(BaseModel):
        text: str

    return Line


OtherLine = line_of_another_module()

#: What a field is annotated with, and what a model would write for it.
TYPES: dict[str, tuple[Any, str]] = {
    "order": (
        Order,
        '{"lines": [{"itemNumber": "k1", "price": 1.5, "day": "2024-01-02", "tags": ["a", "a"]}], '
        '"parent": {"lines": []}}',
    ),
    "lines": (list[Line], '[{"itemNumber": "k1", "price": "2", "day": "2024-01-02", "size": [3, 4]}]'),
    "maybe": (Line | None, "null"),
    "by_name": (dict[str, Line], '{"a": {"itemNumber": "k1", "price": 1, "day": "2024-01-02"}}'),
    "pet": (Cat | Dog, '{"kind": "dog", "barks": true}'),
    "color": (Color, "blue"),
    "level": (Level, "HIGH"),
    "mixed": (Mixed, "two"),
    "colors": (list[Color], '["red", "blue"]'),
    "point": (Point, '{"x": 1}'),
    "points": (list[Point], '[{"x": 1, "y": 2}]'),
    "card": (Card, '{"title": "t"}'),
    "root": (Lines, '[{"itemNumber": "k1", "price": 1, "day": "2024-01-02"}]'),
    "box": (Box[int], '{"item": 4}'),
    "other_line": (OtherLine, '{"text": "x"}'),
    "few": (list[Annotated[int, Field(ge=1)]], "[1, 2]"),
    "mood": (Literal["good", "bad", 3], "good"),
    "optional": (int | None, "null"),
    "pair": (tuple[int, str], '[1, "a"]'),
    "unique": (set[int], "[1, 2]"),
    "day": (dt.date, "2024-01-02"),
    "moment": (dt.datetime, "2024-01-02T03:04:05"),
    "amount": (decimal.Decimal, "1.50"),
    "sure": (bool, "True"),
}


def _fields(make: Callable[..., Any], names: list[str]) -> dict[str, tuple[Any, Any]]:
    return {name: (TYPES[name][0], make(desc=f"the {name}")) for name in names}


def answering(*names: str) -> Any:
    """A signature with outputs of these types, or of all."""
    outputs = _fields(dspy.OutputField, list(names or TYPES))
    return dspy.make_signature({"question": (str, dspy.InputField()), **outputs}, "Answer with every type.")


class Sort(dspy.Signature):  # type: ignore[misc]
    """Sort a mail.

    Read it twice.
    """

    mail: str = dspy.InputField(desc="what a customer wrote")
    context = dspy.InputField()
    stars: int = dspy.OutputField(ge=1, le=5, default=3)
    order: Order = dspy.OutputField(desc="what it is about")
    words: list[str] = dspy.OutputField(default_factory=list)


class Price(dspy.Signature):  # type: ignore[misc]
    """Say what an order costs."""

    order: Order = dspy.InputField()
    color: Color | None = dspy.InputField(default=None)
    total: decimal.Decimal = dspy.OutputField()


with warnings.catch_warnings():
    # Fields named like methods of pydantic's work all the same.
    warnings.simplefilter("ignore", UserWarning)

    class Plain(dspy.Signature):  # type: ignore[misc]
        """Answer shortly."""

        id: str = dspy.InputField()
        type: str = dspy.InputField()
        error: str = dspy.OutputField()
        keys: str = dspy.OutputField()
        items: list[str] = dspy.OutputField()
        model: str = dspy.OutputField()
        json: str = dspy.OutputField()
        copy: int = dspy.OutputField()


class Invoice(BaseModel):
    """Read an invoice."""

    number: str = Field(description="as printed")
    total: decimal.Decimal = Field(ge=0)
    lines: list[Line] = []
