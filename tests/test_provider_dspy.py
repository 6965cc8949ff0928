"""Proves that DSPy's own clients take the scripted provider for the real ones."""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import pydantic
import pytest

from tests.channels import until
from tests.provider import (
    Provider,
    delayed,
    dropped,
    echo,
    fault,
    fields,
    garbage,
    hanging,
    html,
    sequence,
    text,
    truncated,
)

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # before DSPy, which would download it

import dspy
from dspy.clients.engines.lm15_engine import AsyncLM15Engine, LM15Engine
from dspy.lm15 import RouterConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.provider import Reply

#: A model of each provider, and one that DSPy knows to enforce JSON schemas.
MODELS = ["openai/x", "openai/gpt-4o-mini", "anthropic/claude-sonnet-4-5", "gemini/gemini-2.5-flash"]
ADAPTERS = [dspy.ChatAdapter, dspy.JSONAdapter, dspy.XMLAdapter]


class Place(pydantic.BaseModel):
    """A nested value."""

    name: str
    inhabitants: int
    near: list[str]


class Everything(dspy.Signature):  # type: ignore[misc]
    """Answer with every kind of field."""

    context: list[str] = dspy.InputField()
    question: str = dspy.InputField(desc="what to answer")
    answer: str = dspy.OutputField(desc="short (in brackets): yes")
    maybe: str | None = dspy.OutputField()
    count: int = dspy.OutputField()
    share: float = dspy.OutputField()
    sure: bool = dspy.OutputField()
    mood: Literal["it's fine", "bad"] = dspy.OutputField()
    tags: list[str] = dspy.OutputField()


class Nested(dspy.Signature):  # type: ignore[misc]
    """Answer with values that have a schema."""

    question: str = dspy.InputField()
    place: Place = dspy.OutputField()
    table: dict[str, int] = dspy.OutputField()  # lm15 refuses to ask Anthropic for it as JSON


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


def address(provider: Provider, model: str) -> str:
    by_name = {"anthropic": provider.anthropic_url, "gemini": provider.gemini_url}
    return by_name.get(model.partition("/")[0], provider.base_url)


def language_model(provider: Provider, model: str = "openai/x", **options: Any) -> Any:
    return dspy.LM(
        model,
        api_base=address(provider, model),
        api_key="k",
        engine="lm15",
        cache=False,
        num_retries=0,
        **options,
    )


@contextmanager
def using(
    provider: Provider, model: str = "openai/x", adapter: type[Any] = dspy.ChatAdapter, **options: Any
) -> Iterator[None]:
    lm = language_model(provider, model, **options)
    try:
        with dspy.context(lm=lm, adapter=adapter()):
            yield
    finally:
        lm.close()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_default_reply_fills_every_field_at_the_first_try(
    provider: Provider, model: str, adapter: type[Any]
) -> None:
    """Tests without a script would see parse errors, or pay for the JSON fallback's second request."""
    with using(provider, model, adapter):
        got = dspy.Predict(Everything)(context=["a", "b"], question="Where?\n\nAnd when?").toDict()
    assert got == {
        "answer": "Where?\n\nAnd when?",
        "maybe": "Where?\n\nAnd when?",
        "count": 1,
        "share": 1.0,
        "sure": True,
        "mood": "it's fine",
        "tags": [],
    }
    assert len(provider.requests) == 1
    assert provider.requests[0].model == model.split("/")[1]


@pytest.mark.parametrize("adapter", [dspy.ChatAdapter, dspy.JSONAdapter])
def test_the_default_reply_fits_a_schema(provider: Provider, adapter: type[Any]) -> None:
    """Programs with pydantic outputs could not be tested without a script."""
    with using(provider, adapter=adapter):
        got = dspy.Predict(Nested)(question="Where?")
    assert got.toDict() == {"place": {"name": "Where?", "inhabitants": 1, "near": []}, "table": {}}


def test_the_default_reply_lets_react_come_to_an_end(provider: Provider) -> None:
    """An empty input, or one that quotes field headers, would make the echo unreadable."""

    def look() -> str:
        return "seen"

    with using(provider):
        got = dspy.ReAct("question -> answer", tools=[look], max_iters=1)(question="Where?")
    assert (got.answer, got.trajectory["observation_0"]) == ("Where?", "seen")
    assert len(provider.requests) == 2


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_scripted_fields_come_in_the_form_that_the_adapter_reads(
    provider: Provider, model: str, adapter: type[Any]
) -> None:
    """A script would have to know which adapter the program under test uses."""
    provider.reply = lambda _: fields(reasoning="It <is> known & sure.", answer="Paris", n=2)
    with using(provider, model, adapter):
        got = dspy.ChainOfThought("question -> answer, n: int")(question="Capital of France?")
    assert got.toDict() == {"reasoning": "It <is> known & sure.", "answer": "Paris", "n": 2}
    assert len(provider.requests) == 1


def test_a_prompt_that_is_not_dspys_is_echoed(provider: Provider) -> None:
    """Calling an LM by itself would not work."""
    with using(provider):
        assert dspy.settings.lm("Say it again.") == ["Say it again."]


@pytest.mark.parametrize("model", MODELS)
def test_usage_reaches_the_prediction(provider: Provider, model: str) -> None:
    """Tests of usage and cost would have nothing to count."""
    provider.reply = lambda _: text("[[ ## answer ## ]]\nParis")
    with using(provider, model), dspy.context(track_usage=True):
        got = dspy.Predict("question -> answer")(question="Capital of France?")
    [usage] = got.get_lm_usage().values()
    assert usage["prompt_tokens"] == provider.requests[0].prompt.words > 50
    assert usage["completion_tokens"] == 6  # five of them in the header of the field


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (fault(400), dspy.LMInvalidRequestError),
        (fault(400, code="context_length_exceeded"), dspy.ContextWindowExceededError),
        (fault(401), dspy.LMAuthError),
        (fault(404), dspy.LMUnsupportedModelError),
        (fault(429, retry_after=2.5), dspy.LMRateLimitError),
        (fault(500), dspy.LMServerError),
        (fault(503), dspy.LMServerError),
        (html(502), dspy.LMServerError),
        (garbage(), dspy.LMProviderError),
        (truncated(), dspy.LMTransportError),
        (dropped(), dspy.LMTransportError),
    ],
)
def test_each_failure_is_the_error_that_dspy_has_for_it(
    provider: Provider, model: str, reply: Reply, error: type[Exception]
) -> None:
    """Tests of retries and of the mapping of errors would test the wrong failure."""
    provider.reply = lambda _: reply
    with using(provider, model), pytest.raises(error) as caught:
        dspy.Predict("question -> answer")(question="Capital of France?")
    assert type(caught.value) is error
    if error is dspy.LMRateLimitError:
        assert vars(caught.value)["retry_after"] == 2.5
    assert len(provider.requests) == 1


def test_retries_walk_through_a_sequence(provider: Provider) -> None:
    """A failure that passes could not be imitated."""
    provider.reply = sequence(fault(429, retry_after=0.01), fault(503, retry_after=0), fields(answer="Paris"))
    with using(provider):
        with dspy.context(lm=dspy.settings.lm.copy(num_retries=3)):
            assert dspy.Predict("question -> answer")(question="Capital?").answer == "Paris"
            dspy.settings.lm.close()
    assert len(provider.requests) == 3


def test_base_urls_of_the_router_take_the_same_addresses(provider: Provider) -> None:
    """A worker that builds its engine by hand would not reach the provider."""
    urls = {
        "openai-chat": provider.base_url,
        "anthropic": provider.anthropic_url,
        "gemini": provider.gemini_url,
    }
    engine = LM15Engine(RouterConfig(env={}, base_urls=urls, api_keys=dict.fromkeys(urls, "k")))
    try:
        for model in MODELS:
            lm = dspy.LM(model, engine=engine, cache=False, num_retries=0)
            with dspy.context(lm=lm):
                assert dspy.Predict("question -> answer")(question="Where?").answer == "Where?"
    finally:
        engine.close()
    assert [request.dialect.__class__.__name__ for request in provider.requests] == [
        "OpenAIChat",
        "OpenAIChat",
        "AnthropicMessages",
        "Gemini",
    ]


async def _ask(lm: Any, count: int) -> list[str]:
    with dspy.context(lm=lm):
        ask = dspy.Predict("question -> answer")
        got = await asyncio.gather(*(ask.acall(question=f"Number {i}?") for i in range(count)))
    return [one.answer for one in got]


def test_many_calls_at_once_each_get_their_own_answer(provider: Provider) -> None:
    """Concurrent async calls would be answered one by one, or crosswise."""
    provider.reply = lambda _: delayed(0.1, echo())

    async def main() -> list[str]:
        config = RouterConfig(
            env={}, base_urls={"openai-chat": provider.base_url}, api_keys={"openai-chat": "k"}
        )
        engine = AsyncLM15Engine(config)
        lm = dspy.LM("openai/x", engine=LM15Engine(config), async_engine=engine, cache=False, num_retries=0)
        try:
            return await _ask(lm, 64) + await _ask(lm, 32)
        finally:
            await engine.aclose()

    answers = asyncio.run(main())
    assert answers == [f"Number {i}?" for i in (*range(64), *range(32))]
    assert provider.peak_in_flight > 32


def test_a_cancelled_call_closes_its_request(provider: Provider) -> None:
    """Nobody could prove that a deadline stops the request and not only the waiting for it."""
    provider.reply = lambda _: hanging()

    async def main() -> None:
        lm = language_model(provider)
        asking = asyncio.create_task(_ask(lm, 1))
        await until(lambda: provider.requests)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await lm.aclose()
        await until(lambda: provider.disconnects)  # it notices when its own thread gets to it

    asyncio.run(main())
    assert provider.disconnects == 1
    assert provider.requests[0].closed
