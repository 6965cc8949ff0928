"""What is recorded of each LM request, what a model is taken to be able to, and engines of one's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import dspy
import pytest

from dspex.errors import NotAllowed
from dspex.program.importpath import is_allowed
from dspex.types import LMSpec, Retry, Usage
from dspex.worker.allowed import load_allowed
from dspex.worker.engine import CallScope, current
from dspex.worker.routing import build_lm
from tests import engines
from tests.engines import Asked, OpenDoor, built
from tests.provider import Provider, delayed, echo, fault, fields, sequence, text

pytestmark = pytest.mark.anyio


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


# What is recorded


@pytest.mark.parametrize(
    ("model", "address"),
    [
        ("openai/gpt-4o-mini", "base_url"),
        ("anthropic/claude-sonnet-4-5", "anthropic_url"),
        ("gemini/gemini-2.5-flash", "gemini_url"),
    ],
)
async def test_a_request_costs_what_dspy_estimates(provider: Provider, model: str, address: str) -> None:
    """Budgets and bills would rest on prices that nobody knows."""
    url = getattr(provider, address)
    stock = dspy.LM(model, engine="lm15", api_base=url, api_key="k", cache=False)
    with dspy.context(lm=stock):
        await dspy.Predict("question -> answer").acall(question="Where?")
    expected = stock.history[-1]["cost"]
    await stock.aclose()
    async with built(provider, model, base_url=url) as asked:
        await asked.ask()
    [request] = asked.requests
    assert request.cost == pytest.approx(expected)
    assert request.cost
    assert request.usage == Usage(provider.requests[1].prompt.words, request.usage.completion_tokens)
    assert request.usage.total_tokens > request.usage.prompt_tokens > 20


async def test_an_unknown_models_cost_is_unknown(provider: Provider) -> None:
    """A model without a price would look free."""
    async with built(provider, "openai/nobody-has-priced-this") as asked:
        await asked.ask()
    assert asked.requests[0].cost is None
    assert asked.requests[0].usage.completion_tokens > 0


async def test_replies_that_cannot_be_parsed_are_paid_for_too(provider: Provider) -> None:
    """DSPy asks again in JSON after a reply it cannot read: one of the two requests would be missing."""
    provider.reply = lambda _: text("I would rather not.")
    async with built(provider, "openai/gpt-4o-mini") as asked:
        with pytest.raises(dspy.utils.exceptions.AdapterParseError):
            await asked.ask()
    assert [r.status for r in asked.requests] == ["ok", "ok"]
    assert [r.usage.completion_tokens for r in asked.requests] == [4, 4]
    assert all(r.cost for r in asked.requests)
    assert len(provider.requests) == 2


async def test_requests_before_a_failure_are_recorded(provider: Provider) -> None:
    """What a call had used before it failed would be forgotten."""
    provider.reply = sequence(text("Hm."), fault(401))
    async with built(provider) as asked:
        with pytest.raises(dspy.LMAuthError):
            await asked.ask()
    assert [r.status for r in asked.requests] == ["ok", "lm_auth"]
    assert asked.requests[1].usage == Usage()
    assert asked.requests[1].model == "openai/x"


async def test_calls_at_once_record_their_own_requests(provider: Provider) -> None:
    """One call would be charged for another's tokens."""
    provider.reply = lambda _: delayed(0.05, echo())
    async with built(provider) as asked:
        side_by_side = [Asked(asked.lm) for _ in range(20)]
        questions = ["word " * (number + 1) for number in range(20)]
        await asyncio.gather(*(one.ask(question=q) for one, q in zip(side_by_side, questions, strict=True)))
    tokens = [one.requests[0].usage.prompt_tokens for one in side_by_side]
    assert all(len(one.requests) == 1 for one in side_by_side)
    assert [count - tokens[0] for count in tokens] == list(range(20))


# What a model can do


@pytest.mark.parametrize(
    ("model", "schema", "sent"),
    [
        ("openai/gpt-4o-mini", None, True),
        ("openai/gpt-4o-mini", False, False),
        ("openai/unknown", None, False),
        ("openai/unknown", True, True),
    ],
)
async def test_a_schema_is_sent_where_the_model_enforces_one(
    provider: Provider, model: str, schema: bool | None, sent: bool
) -> None:
    """A model that could be held to the form would answer freely, or one that cannot refuse each request."""
    provider.reply = lambda _: fields(answer="Paris", count=2)
    async with built(provider, model, schema=schema) as asked:
        assert await asked.ask(dspy.JSONAdapter(), signature="question -> answer, count: int") == "Paris"
    wanted = provider.requests[0].body.get("response_format", {})
    assert (wanted.get("type") == "json_schema") is sent
    if sent:
        assert set(wanted["json_schema"]["schema"]["properties"]) == {"answer", "count"}
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    "model",
    [
        "openai/gpt-4o-mini",
        "openai/gpt-5-mini",
        "anthropic/claude-sonnet-4-5",
        "gemini/gemini-2.5-pro",
        "openai/x",
    ],
)
def test_a_model_can_do_what_dspy_says(model: str) -> None:
    """DSPy asks the engine what a model can do, and would take ours to be able to nothing."""
    stock, ours = dspy.LM(model, engine="lm15", api_key="k"), build_lm(LMSpec(model=model, api_key="k"), [])
    for name in ("supports_function_calling", "supports_reasoning", "supports_response_schema"):
        assert getattr(ours, name) == getattr(stock, name)
    assert set(ours.supported_params) == set(stock.supported_params)
    assert (ours.num_retries, ours.cache) == (0, False)


def test_parameters_that_a_model_refuses_are_refused_as_dspy_does() -> None:
    """A wrong profile would be found out by the provider, after a request."""
    with pytest.raises(dspy.LMConfigurationError, match="temperature"):
        build_lm(LMSpec(model="openai/gpt-5-mini", api_key="k", temperature=0.2), [])


# Engines of one's own


@pytest.mark.parametrize("name", ["Plain", "Awaited"])
async def test_an_operators_engine_answers(name: str) -> None:
    """A gateway that speaks no known protocol could not be used."""
    async with built(None, "own/model", engine=f"tests.engines:{name}") as asked:
        assert await asked.ask(dspy.JSONAdapter() if name == "Awaited" else None) == "yes"
    [request] = asked.requests
    assert (request.model, request.usage, request.cost, request.status) == ("own", Usage(3, 2), None, "ok")


async def test_an_operators_engine_says_what_its_model_can_do() -> None:
    """A gateway in front of a model with schemas would never be sent one."""
    engines.Awaited.seen.clear()
    async with built(None, "own/model", engine="tests.engines:Awaited") as asked:
        await asked.ask(dspy.JSONAdapter())
        assert asked.lm.supports_function_calling
        assert not asked.lm.supports_reasoning
        assert asked.lm.supported_params == {"temperature", "response_format"}
    assert engines.Awaited.seen[0].config.response_format is not None
    async with built(None, "own/model", engine="tests.engines:Plain", schema=True) as asked:
        assert asked.lm.supports_response_schema


async def test_a_synchronous_engine_does_not_stop_the_loop() -> None:
    """While it waits for its gateway, all other calls of the worker would stand still, deadlines included."""
    async with built(None, "own/model", engine="tests.engines:Meeting") as asked:
        answers: list[str] = await asyncio.gather(*[asked.ask(), asked.ask()])
    assert answers == ["yes", "yes"]


async def test_an_operators_engine_that_breaks_fails_as_an_lm_does() -> None:
    """A bug in a gateway's engine would be told as one of the user's program."""
    async with built(None, "own/model", engine="tests.engines:Broken") as asked:
        with pytest.raises(dspy.LMUnexpectedError, match="choices"):
            await asked.ask()
    assert [(r.status, r.model) for r in asked.requests] == [("lm_unavailable", "own/model")]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("tests.engines:Plain", []),
        ("tests.engines:Plain", ["tests.engine", "tests.engines.more", "tests_engines"]),
        ("tests.engines", ["tests"]),
        ("tests.engines:", ["tests"]),
        ("tests.engines:Plain.complete", ["tests"]),
        ("tests.engines:Plain()", ["tests"]),
        ("os:system", ["tests"]),
        ("", ["tests"]),
        ("tests.engines..x:Plain", []),
    ],
)
def test_nothing_is_imported_that_is_not_allowed(path: str, allowed: list[str]) -> None:
    """A caller could have any module of the machine imported, and any object of it called."""
    with pytest.raises(NotAllowed) as caught:
        load_allowed(path, allowed)
    assert caught.value.details == {"path": path}
    with pytest.raises(NotAllowed):
        build_lm(LMSpec(model="own/model", engine=path), allowed)


def test_what_is_allowed_is_allowed_with_all_below_it() -> None:
    """An allowed package's modules would have to be listed one by one."""
    assert load_allowed("tests.engines:Plain", ["tests"]) is engines.Plain
    assert is_allowed("shop.jobs.daily", ["shop"])
    assert not is_allowed("shopping", ["shop"])


def test_the_synchronous_engine_retries_and_records_too(provider: Provider) -> None:
    """A module that has no async form would lose its retries, its usage and its price."""
    provider.reply = sequence(fault(500), fields(answer="Paris"), fault(401))
    spec = LMSpec(
        model="openai/gpt-4o-mini", base_url=provider.base_url, api_key="k", retry=Retry(attempts=2, wait=0.0)
    )
    lm: Any = build_lm(spec, [])
    door = OpenDoor()
    token = current.set(CallScope(door))
    with dspy.context(lm=lm):
        assert dspy.Predict("question -> answer")(question="Where?").answer == "Paris"
        with pytest.raises(dspy.LMAuthError):
            dspy.Predict("question -> answer")(question="Where?")
        lm._engine_spec.close()
        with pytest.raises(dspy.LMConfigurationError, match="closed"):
            dspy.Predict("question -> answer")(question="Where?")
    current.reset(token)
    assert [(r.status, r.retries) for r in door.requests] == [
        ("ok", 1),
        ("lm_auth", 0),
        ("lm_invalid_request", 0),
    ]
    assert door.requests[0].cost
    assert len(provider.requests) == 3
