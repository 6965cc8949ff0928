"""An agent asks its model what plain DSPy would ask it, byte for byte, and answers the same.

Two differences are meant. The frames that a model sees of a failed tool are those of the tool alone, where
DSPy shows the first five from its own code on, and of arguments that do not fit it sees what is wrong and
not the whole schema. And a tool may give a list of what is no text, on which DSPy fails.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import enum
import re
from collections.abc import Iterator
from typing import Any, Literal

import dspy
import pydantic
import pytest

import dspex
from tests.agents import Act, react
from tests.provider import Provider, Reply, Request, fields

SIGNATURE = "question -> answer"


class Colour(enum.Enum):
    RED = "red"


class Item(pydantic.BaseModel):
    """Something to buy."""

    name: str
    price: decimal.Decimal = decimal.Decimal("1.50")
    day: dt.date | None = None

    @pydantic.field_serializer("name")
    def loud(self, name: str) -> str:
        return name.upper()


def find(name: str, kind: Literal["new", "used"] = "new", colour: Colour = Colour.RED) -> Item:
    """Find something.

    Args:
        name: what it is called
    """
    return Item(name=name, day=dt.date(2024, 1, 2))


def several(items: list[Item], tags: dict[str, list[int]] | None = None) -> dict[str, Any]:
    return {"items": items, "first": items[0], "tuple": (1, "two"), "day": dt.date(2024, 1, 2)}


def nothing() -> None:
    """Give nothing."""


def texts(n: int) -> list[str]:
    return ["one", "two « three", "four\nfive"][:n]


def untyped(a, b=3, **more):  # type: ignore[no-untyped-def]
    """Ünïcode and "quotes"."""
    return f"{a} {b} {sorted(more)}"


async def later(seconds: float) -> float:
    """Asynchronous."""
    await asyncio.sleep(0)
    return seconds


class Shelf:
    def __call__(self, place: int) -> bool:
        """Whether it is full."""
        return place > 1


TOOLS = [find, several, nothing, texts, untyped, later, Shelf()]
ACTS: list[Act] = [
    ("find", {"name": "kettle", "kind": "used", "colour": "red"}),
    ("several", {"items": [{"name": "cup"}], "tags": {"a": [1]}}),
    ("nothing", {}),
    ("texts", {"n": 1}),
    ("texts", {"n": 3}),
    ("untyped", {"a": {"deep": [1, None]}, "c": 1}),
    ("later", {"seconds": 0.5}),
    ("Shelf", {"place": 2}),
]


@pytest.fixture(scope="module")
def serving() -> Iterator[tuple[Provider, dspex.Runtime]]:
    with Provider() as provider:
        lms = {
            name: dspex.LM("openai/gpt-4o", base_url=provider.base_url, adapter=name)
            for name in ("chat", "json", "xml")
        }
        with dspex.Runtime(lms=lms, pools={"general": {"workers": 1}}) as runtime:
            yield provider, runtime


ADAPTERS = {"chat": dspy.ChatAdapter, "json": dspy.JSONAdapter, "xml": dspy.XMLAdapter}


def plain(provider: Provider, adapter: str, module: dspy.Module) -> dspy.Prediction:
    lm = dspy.LM(
        "openai/gpt-4o",
        api_base=provider.base_url,
        api_key="k",
        engine="lm15",
        cache=False,
        temperature=None,
        max_tokens=None,
    )
    with dspy.context(lm=lm, adapter=ADAPTERS[adapter]()):
        return asyncio.run(module.acall(question="q"))


def bodies(provider: Provider) -> list[dict[str, Any]]:
    found = [request.body for request in provider.requests]
    provider.requests.clear()
    return found


@pytest.mark.parametrize("adapter", list(ADAPTERS))
def test_react_asks_what_dspy_asks(serving: tuple[Provider, dspex.Runtime], adapter: str) -> None:
    """If this failed, moving an agent into a pool would change what its model is asked."""
    provider, runtime = serving
    provider.reply = react(ACTS)
    provider.requests.clear()
    stock = plain(provider, adapter, dspy.ReAct(SIGNATURE, tools=TOOLS))
    wanted = bodies(provider)
    got = runtime.adapter().generate("q", module="ReAct", signature=SIGNATURE, tools=TOOLS, lm=adapter)
    assert bodies(provider) == wanted
    assert len(wanted) == len(ACTS) + 2
    assert (got.answer, got.reasoning) == (stock.answer, stock.reasoning)
    assert got.trajectory is not None
    assert list(got.trajectory) == list(stock.trajectory)


def test_a_failed_tool_is_shown_as_dspy_shows_it_but_for_its_frames(
    serving: tuple[Provider, dspex.Runtime],
) -> None:
    """If this failed, a model that knows DSPy's words for a failure would read others."""
    provider, runtime = serving

    def broken(a: int) -> None:
        raise LookupError(f"nothing at {a}")

    provider.reply = react([("broken", {"a": 1}), ("broken", {"b": 1})])
    provider.requests.clear()
    plain(provider, "chat", dspy.ReAct(SIGNATURE, tools=[broken]))
    wanted = [body["messages"][-1]["content"] for body in bodies(provider)]
    runtime.adapter().generate("q", module="ReAct", signature=SIGNATURE, tools=[broken], lm="chat")
    got = [body["messages"][-1]["content"] for body in bodies(provider)]

    def unframed(text: str) -> str:
        """Without what is indented, and without the title of a traceback."""
        return re.sub(r"(Traceback .*:|  +.*)\n", "", text)

    assert [unframed(text) for text in got] == [unframed(text) for text in wanted]
    assert "LookupError: nothing at 1" in got[-1]


def test_react_v2_asks_what_dspy_asks(serving: tuple[Provider, dspex.Runtime]) -> None:
    """If this failed, the same would hold for DSPy's next agent."""
    provider, runtime = serving

    def reply(request: Request) -> Reply:
        if len(provider.requests) % 2:
            calls = [{"name": name, "args": args} for name, args in filter(None, ACTS)]
        else:
            calls = [{"name": "submit", "args": {"answer": "forty"}}]
        return fields(next_thought="I look.", tool_calls={"tool_calls": calls})

    provider.reply = reply
    provider.requests.clear()
    stock = plain(provider, "chat", dspy.ReActV2(SIGNATURE, tools=TOOLS))
    wanted = bodies(provider)
    got = runtime.adapter().generate("q", module="ReActV2", signature=SIGNATURE, tools=TOOLS, lm="chat")
    assert bodies(provider) == wanted
    assert len(wanted) == 2
    assert got.answer == stock.answer == "forty"
