"""What a model is told of a tool: the same, byte for byte, as DSPy itself would tell it."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Optional

import dspy
import pydantic
import pytest

import dspex
from dspex.program.toolspec import from_json_schema, look_at


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Place(pydantic.BaseModel):
    """Where something is."""

    city: str = pydantic.Field(description="the city")
    zip: int | None = None


class Trip(pydantic.BaseModel):
    start: Place
    stops: list[Place] = []


@dataclass
class Point:
    x: float
    y: float = 0.0


class Node(pydantic.BaseModel):
    below: list[Node] = []


class Shop:
    """A shop, which can be called.

    In two paragraphs.
    """

    def __call__(self, item: str) -> str:
        return item

    def price(self, item: str, currency: Literal["EUR", "USD"] = "EUR") -> float:
        """The price of an item."""
        return 1.0

    @staticmethod
    def opens(day: dt.date) -> bool:
        return True

    @classmethod
    def named(cls, name: str) -> str:
        return name


def bare(a, b=2, c="x"):  # type: ignore[no-untyped-def]
    return a


def typed(a: str, b: int = 3, c: float = 0.5, d: bool = True, e: list[str] | None = None) -> str:
    """Many plain types.

    Args:
        a: something with "quotes" and 'others' and ümlauts
    """
    return a


def models(trip: Trip, places: list[Place], by_name: dict[str, Place], point: Point) -> str:
    return ""


def special(
    when: dt.datetime,
    mood: Mood = Mood.BAD,
    much: decimal.Decimal = decimal.Decimal("1.50"),
    *,
    key: bytes = b"",
) -> str:
    return ""


def loose(a: Any, b: Optional[Place] = None, **more: int) -> str:  # noqa: UP045 (as users write it)
    """Takes anything."""
    return ""


def noted(
    a: Annotated[int, pydantic.Field(ge=0, description="at least 0")], b: tuple[int, str], c: set[int]
) -> None:
    """Bounds."""


async def later(seconds: float) -> None:
    """Asynchronous."""


@functools.wraps(typed)
def wrapped(*args: Any, **kwargs: Any) -> str:
    return typed(*args, **kwargs)


shop = Shop()


@pytest.mark.parametrize(
    "function",
    [bare, typed, models, special, loose, noted, later, wrapped, shop, shop.price, Shop.opens, Shop.named],
    ids=lambda function: getattr(function, "__name__", "instance"),
)
def test_the_model_is_told_what_dspy_would_tell(function: Callable[..., Any]) -> None:
    """If this failed, a program would ask its model something else than plain DSPy does."""
    (ours,) = look_at([function], "dspy.ReAct")
    stock = dspy.Tool(function)
    assert (ours.spec.name, ours.spec.description, ours.spec.takes_any) == (
        stock.name,
        stock.desc or "",
        stock.has_kwargs,
    )
    assert repr(ours.spec.parameters) == repr(stock.args)
    from dspex.worker.tools import as_tools

    (built,) = as_tools([ours.spec], [])
    assert str(built) == str(stock)
    assert built.format_as_litellm_function_call() == stock.format_as_litellm_function_call()


def test_a_dspy_tool_is_taken_as_it_is() -> None:
    """If this failed, a program moved over from DSPy would have to take its tools apart."""
    stock = dspy.Tool(typed, name="other", desc="Said by hand.", args={"a": {"type": "string"}})
    (ours,) = look_at([dspex.Tool(stock, fatal=True)], "dspy.ReAct")
    assert (ours.spec.name, ours.spec.description, ours.spec.parameters) == (
        "other",
        "Said by hand.",
        {"a": {"type": "string"}},
    )
    assert ours.function is typed
    assert ours.spec.fatal


def test_a_partial_has_the_name_and_the_parameters_that_are_left() -> None:
    """If this failed, a function with one argument given would be called `partial`, and take nothing."""
    (ours,) = look_at([functools.partial(typed, b=5)], "dspy.ReAct")
    assert ours.spec.name == "typed"
    assert ours.spec.parameters["b"] == {"type": "integer", "default": 5}
    (first,) = look_at([functools.partial(typed, "given")], "dspy.ReAct")
    assert list(first.spec.parameters) == ["b", "c", "d", "e"]


def test_arguments_become_what_the_function_declares() -> None:
    """If this failed, a tool written for its own types would be called with dicts."""
    (ours,) = look_at([models], "dspy.ReAct")
    place = {"city": "Paris", "zip": 75001}
    given = {"trip": {"start": place}, "places": [place], "by_name": {"a": place}, "point": {"x": 1}}
    parsed = ours.parsed(given)
    assert parsed == dspy.Tool(models)._validate_and_parse_args(**given)
    assert isinstance(parsed["trip"], Trip)
    assert isinstance(parsed["point"], Point)
    with pytest.raises(pydantic.ValidationError, match=r"validation error for Wrapper\nvalue\.start"):
        ours.parsed({"trip": {"start": 3}})


def unread(a: NoSuchType) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def recursive(a: Node) -> None: ...


def unschemable(a: Callable[[], int]) -> None: ...


REFUSED: list[tuple[Any, str]] = [
    (lambda x: x, "has no name"),
    (dspex.Tool(bare, name="two words"), "no name for a tool"),
    (dspex.Tool(bare, name="x" * 65 + "-"), "no name for a tool"),
    (dspex.Tool(bare, name="finish"), "own last step"),
    (lambda a, /: a, "takes a by position"),
    (lambda *many: many, r"takes \*many by position"),
    (Shop, "is a class"),
    (math.sqrt, "by position"),
    (unread, "type hint that cannot be read"),
    (recursive, "contains itself"),
    (unschemable, "no JSON Schema"),
    ("no path", "names no tool"),
]


@pytest.mark.parametrize(("tool", "why"), REFUSED, ids=[why for _, why in REFUSED])
def test_what_cannot_be_a_tool_is_refused_by_name(tool: Any, why: str) -> None:
    """If this failed, a model would be offered a tool that fails whenever it is called."""
    with pytest.raises(dspex.InvalidOption, match=why):
        look_at([tool], "dspy.ReAct")


def test_two_tools_of_one_name_are_refused() -> None:
    """If this failed, DSPy would drop one of them without a word."""
    with pytest.raises(dspex.InvalidOption, match="'bare' is there twice"):
        look_at([bare, dspex.Tool(typed, name="bare")], "dspy.ReAct")
    with pytest.raises(dspex.InvalidOption, match="own last step"):
        look_at([dspex.Tool(bare, name="submit")], "dspy.ReActV2")
    assert look_at([dspex.Tool(bare, name="submit")], "dspy.ReAct")


@pytest.mark.parametrize(
    "make",
    [
        lambda: dspex.Tool(3),  # type: ignore[arg-type]
        lambda: dspex.Tool(dspex.Tool(bare)),  # type: ignore[arg-type]
        lambda: dspex.Tool(bare, fatal=1),  # type: ignore[arg-type]
        lambda: dspex.Tool(bare, approve="yes"),  # type: ignore[arg-type]
        lambda: dspex.Tool(bare, name=3),  # type: ignore[arg-type]
        lambda: look_at("bare", "dspy.ReAct"),
        lambda: look_at([object()], "dspy.ReAct"),
    ],
)
def test_a_wrong_option_of_a_tool_is_refused(make: Callable[[], Any]) -> None:
    """If this failed, a misspelled option would show itself in the middle of a run."""
    with pytest.raises(dspex.InvalidOption):
        make()


def test_a_default_that_is_no_data_is_named_by_its_type() -> None:
    """If this failed, a tool with a sentinel could not be sent, or be another program in each process."""
    sentinel = object()

    def with_sentinel(a: Any = sentinel) -> None: ...

    (ours,) = look_at([with_sentinel], "dspy.ReAct")
    assert ours.spec.parameters == {"a": {"default": "<object>"}}


def test_schemas_of_mcp_become_arguments_as_dspy_makes_them() -> None:
    """If this failed, a model would be told something else of an MCP tool than by plain DSPy."""
    from dspy.adapters.types.tool import convert_input_schema_to_tool_args

    schema = {
        "type": "object",
        "$defs": {"P": {"type": "object", "properties": {"x": {"type": "number"}}}},
        "properties": {"a": {"type": "string"}, "b": {"$ref": "#/$defs/P"}, "c": {"anyOf": []}},
        "required": ["a"],
    }
    args, types, _ = convert_input_schema_to_tool_args(schema)
    assert from_json_schema(schema) == (args, types)
    assert from_json_schema({"type": "object"}) == ({}, {})
