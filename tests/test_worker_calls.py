"""What programs answer, and how their language models fail, through a real runtime with one worker."""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest

import dspex
from tests.provider import (
    Provider,
    Reply,
    Request,
    delayed,
    dropped,
    echo,
    fault,
    fields,
    garbage,
    html,
    text,
    truncated,
)

ONCE = dspex.Retry(attempts=1)
KEY = "sk-canary-7f3a9c51"


@pytest.fixture(scope="module")
def serving() -> Iterator[tuple[Provider, dspex.Runtime]]:
    with (
        Provider() as provider,
        dspex.Runtime(
            lm=dspex.LM("openai/x", base_url=provider.base_url, retry=ONCE),
            pools={"general": dspex.PoolOptions(workers=1, slots=128)},
            settings=dspex.Settings(allow_modules=("tests.commands",)),
        ) as runtime,
    ):
        yield provider, runtime


@pytest.fixture
def provider(serving: tuple[Provider, dspex.Runtime]) -> Provider:
    serving[0].reply = lambda _: echo()
    serving[0].requests.clear()
    return serving[0]


@pytest.fixture
def runtime(serving: tuple[Provider, dspex.Runtime]) -> dspex.Runtime:
    return serving[1]


# Outputs


def test_chain_of_thought_reasons_before_it_answers(runtime: dspex.Runtime, provider: Provider) -> None:
    """The module asked for would not be the one that ran."""
    provider.reply = lambda _: fields(reasoning="It is known.", answer="Paris")
    got = runtime.adapter().generate("Capital?", module="ChainOfThought", signature="question -> answer")
    assert list(got.outputs.items()) == [("reasoning", "It is known."), ("answer", "Paris")]
    assert (got.reasoning, got["answer"], got.content) == ("It is known.", "Paris", "Paris")


def test_outputs_have_the_types_that_were_asked_for(runtime: dspex.Runtime, provider: Provider) -> None:
    """Everything would come as text, for the caller to read once more."""
    said = {"n": "7", "tags": '["a", "b"]', "mood": "bad", "sure": "True", "day": "2024-01-02", "sum": "1.50"}
    provider.reply = lambda _: fields(**said)
    signature = (
        "q -> n: int, tags: list[str], mood: Literal['good', 'bad'], sure: bool, day: date, sum: Decimal"
    )
    got = runtime.adapter().generate("x", signature=signature)
    assert list(got.outputs.values()) == [
        7,
        ["a", "b"],
        "bad",
        True,
        dt.date(2024, 1, 2),
        decimal.Decimal("1.5"),
    ]
    plain = runtime.adapter(serialization_format="json").generate("x", signature=signature)
    assert list(plain.outputs.values()) == [7, ["a", "b"], "bad", True, "2024-01-02", "1.5"]
    assert json.loads(json.dumps(plain.to_dict()))["outputs"] == plain.outputs == got.to_dict()["outputs"]


def test_an_output_of_another_type_is_told_as_such(runtime: dspex.Runtime, provider: Provider) -> None:
    """A user would look for an output that is there, or raise max_tokens for nothing."""
    provider.reply = lambda _: text('{"stars": "many", "mood": "good"}')
    with pytest.raises(dspex.ParseError) as caught:
        runtime.adapter().generate("?", signature="text -> stars: int, mood: Literal['good', 'bad']")
    assert "stars: int, mood: Literal['good', 'bad']" in caught.value.message
    assert "max_tokens" not in caught.value.message
    provider.reply = lambda _: text('{"mood": "good"}')
    with pytest.raises(dspex.ParseError, match="does not have the outputs stars; a larger max_tokens"):
        runtime.adapter().generate("?", signature="text -> stars: int, mood: Literal['good', 'bad']")


def test_a_response_is_read_by_name(runtime: dspex.Runtime, provider: Provider) -> None:
    """An output named like something of the response would hide it, or could not be had."""
    provider.reply = lambda _: fields(model="tall", usage="often", pages=[1, 2])
    got = runtime.adapter().generate("x", signature="q -> model, usage, pages: list[int]")
    assert (got.model, got["model"], got["usage"], got.pages) == ("x", "tall", "often", [1, 2])
    assert got.usage.total_tokens > 20
    assert got.content == "[1,2]"
    assert "pages" in dir(got)
    with pytest.raises(AttributeError, match="no output 'page'; there are model, usage, pages"):
        _ = got.page
    with pytest.raises(KeyError):
        _ = got["page"]


def test_several_completions_all_come(runtime: dspex.Runtime, provider: Provider) -> None:
    """A caller would pay for two answers and get one."""
    provider.reply = lambda request: fields(answer=f"number {request.number % 2}", count=request.number % 2)
    got = runtime.adapter().generate("x", signature="q -> answer, count: int", n=2)
    assert got.completions is not None
    assert sorted(one["count"] for one in got.completions) == [0, 1]
    assert got.completions[0] == got.outputs
    assert [one["answer"] for one in got.completions] == [f"number {one['count']}" for one in got.completions]
    assert len(got.requests) == len(provider.requests) == 2
    provider.reply = lambda _: echo()
    assert runtime.adapter().generate("x").completions is None


def test_messages_arrive_as_a_history(runtime: dspex.Runtime, provider: Provider) -> None:
    """A model would not know what was said before, or take its own words for the user's."""
    prompt = [
        {"role": "system", "content": "Be terse."},
        {"role": "user", "content": "first question"},
        {"role": "assistant", "content": "first answer"},
        {"role": "user", "content": "second question"},
    ]
    assert runtime.adapter().generate(prompt, signature="question -> answer").answer == "second question"
    system, *spoken = provider.requests[0].body["messages"]
    assert "produce the fields `answer`.\n" in system["content"]
    assert "Be terse." in system["content"]
    for message, role, said in zip(
        spoken,
        ["user", "assistant", "user"],
        ["[[ ## question ## ]]\nfirst question", "[[ ## answer ## ]]\nfirst answer", "second question"],
        strict=True,
    ):
        assert message["role"] == role
        assert said in message["content"]
        assert sum(said in other["content"] for other in spoken) == 1


def test_options_of_a_module_hold_below_those_of_a_call(runtime: dspex.Runtime, provider: Provider) -> None:
    """What an operator set for a module would be lost, or could not be set otherwise for once."""
    adapter = runtime.adapter(module_config={"ChainOfThought": {"temperature": 0.5, "max_tokens": 50}})
    adapter.generate("x", module="dspy.ChainOfThought")
    adapter.generate("x", module="dspy.ChainOfThought", temperature=0)
    adapter.generate("x")
    sent = [(r.body.get("temperature"), r.body.get("max_completion_tokens")) for r in provider.requests]
    assert sent == [(0.5, 50), (0.0, 50), (None, None)]


# Failures


@pytest.mark.parametrize(
    ("reply", "code", "retryable"),
    [
        (fault(400, message=f"{KEY}?"), "lm_invalid_request", False),
        (fault(400, message=KEY, code="context_length_exceeded"), "lm_context_window", False),
        (fault(401, message=f"Incorrect API key provided: {KEY}."), "lm_auth", False),
        (fault(402, message=KEY), "lm_billing", False),
        (fault(404, message=KEY), "lm_unsupported", False),
        (fault(429, retry_after=2.5, message=KEY), "lm_rate_limited", True),
        (fault(500, message=KEY), "lm_unavailable", True),
        (fault(504, message=KEY), "lm_timeout", True),
        (html(502), "lm_unavailable", True),
        (html(200), "lm_unavailable", True),
        (dropped(), "lm_unavailable", True),
        (garbage(), "lm_unavailable", True),
        (truncated(), "lm_unavailable", True),
        (text(f"I will not say {KEY}."), "parse_error", False),
    ],
)
def test_a_providers_failure_has_its_code_and_tells_no_key(
    runtime: dspex.Runtime,
    provider: Provider,
    caplog: pytest.LogCaptureFixture,
    reply: Reply,
    code: str,
    retryable: bool,
) -> None:
    """A caller could not tell a wrong key from a bad day, or would find his key in an error or a log."""
    caplog.set_level(logging.DEBUG)
    provider.reply = lambda _: reply
    lm = dspex.LM("openai/x", api_key=KEY, base_url=provider.base_url, retry=ONCE)
    with pytest.raises(dspex.DspexError) as caught:
        runtime.adapter(lm=lm).generate("Where?", signature="question -> answer")
    error = caught.value
    assert (error.code, error.retryable) == (code, retryable)
    assert error.retry_after == (2.5 if code == "lm_rate_limited" else None)
    assert error.request_id
    assert provider.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert len(provider.requests) == (2 if code == "parse_error" else 1)
    said = [error.message, str(error), repr(error), json.dumps(error.to_wire()), repr(lm), caplog.text]
    said += [repr(vars(record)) for record in caplog.records]
    assert not any(KEY in text_ for text_ in said)
    if code == "parse_error":
        assert error.details["text"] == "I will not say ***."
        assert error.details["expected"] == ["answer"]


def test_a_model_without_a_key_has_no_words_taken_out(runtime: dspex.Runtime, provider: Provider) -> None:
    """The word that stands in for a key that nobody gave would be taken for a secret."""
    provider.reply = lambda _: text("There is none, nonetheless.")
    with pytest.raises(dspex.ParseError) as caught:
        runtime.adapter().generate("Where?", signature="question -> answer")
    assert caught.value.details["text"] == "There is none, nonetheless."


def test_a_key_that_is_not_set_is_told_by_its_variable(
    runtime: dspex.Runtime, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller would be told by the provider, and not know what to set."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(dspex.LMNotConfigured) as caught:
        runtime.adapter(lm="openai/gpt-4o-mini").generate("x")
    assert caught.value.details == {"variable": "OPENAI_API_KEY"}


# Many at once


def _tell(request: Request) -> Reply:
    number = re.search(r"Number \d+", request.prompt.user)
    assert number is not None
    asked = f"{request.model} {request.headers['authorization']} {number[0]}"
    return delayed((request.number % 7) / 50, fields(answer=asked, temperature=request.body["temperature"]))


@pytest.mark.anyio
async def test_models_at_once_in_one_worker_are_never_mixed(
    runtime: dspex.Runtime, provider: Provider
) -> None:
    """One customer's question would be asked with another's key, of another's model, or at his address."""
    provider.reply = _tell
    with Provider(_tell) as other:
        places = [provider, other]
        lms = [
            dspex.LM(
                f"openai/model-{i // 4}",
                api_key=f"key-{i % 5}-{i // 5}",
                base_url=places[i % 2].base_url,
                temperature=i / 10,
            )
            for i in range(10)
        ]
        adapter = runtime.adapter()
        signature = "question -> answer, temperature: float"
        got = await asyncio.gather(
            *(
                adapter.agenerate(f"Number {call}", signature=signature, lm=lms[call % 10])
                for call in range(100)
            )
        )
        for call, response in enumerate(got):
            i = call % 10
            assert response.answer == f"model-{i // 4} Bearer key-{i % 5}-{i // 5} Number {call}"
            assert response.temperature == i / 10
            assert [request.model for request in response.requests] == [f"model-{i // 4}"]
        assert [len(place.requests) for place in places] == [50, 50]
        assert provider.peak_in_flight + other.peak_in_flight > 20


@pytest.mark.anyio
async def test_nothing_grows_with_the_calls(runtime: dspex.Runtime, provider: Provider) -> None:
    """A worker would keep what its calls said, 12 kB each, until it is out of memory."""
    adapter = runtime.adapter()
    before = await runtime.pool().aexecute("get_stats")
    for _ in range(20):
        calls: list[Any] = [adapter.agenerate(f"Number {call}", signature="q -> a") for call in range(100)]
        assert [got.a for got in await asyncio.gather(*calls)] == [f"Number {call}" for call in range(100)]
    kept = await runtime.pool().aexecute("tests.growth")
    after = await runtime.pool().aexecute("get_stats")
    assert kept == {"global history": 0, "trace": 0, "histories": 0, "usage": 0, "cached": 0}
    assert after["done"] - before["done"] == 2000 + 2
    assert after["pid"] == before["pid"]
