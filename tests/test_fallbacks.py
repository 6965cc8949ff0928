"""The LMs that are asked when the first one does not answer, with providers that fail by script."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest

import dspex
import dspex.testing
from tests.processes import until
from tests.provider import Provider, Reply, delayed, echo, fault, hanging, paced, text

pytestmark = pytest.mark.anyio
ONE = {"general": dspex.PoolOptions(workers=1)}
QUESTION = "question -> answer"


@pytest.fixture(scope="module")
def first() -> Iterator[Provider]:
    with Provider() as running:
        yield running


@pytest.fixture(scope="module")
def second() -> Iterator[Provider]:
    with Provider() as running:
        yield running


@pytest.fixture(autouse=True)
def answers(first: Provider, second: Provider) -> None:
    first.reply = second.reply = lambda _: echo()


@pytest.fixture(scope="module")
def runtime(first: Provider) -> Iterator[dspex.Runtime]:
    with dspex.Runtime(pools=ONE, settings=dspex.Settings(file=False)) as opened:
        yield opened


def model(provider: Provider, name: str = "second", **options: Any) -> dspex.LM:
    known = {"api_key": "k", "retry": dspex.Retry(attempts=1), "breaker": None}
    return dspex.LM(f"openai/{name}", base_url=provider.base_url, **{**known, **options})


def chain(first: Provider, second: Provider, **options: Any) -> dspex.LM:
    return model(first, "first", fallbacks=(model(second),), **options)


TOO_LONG = fault(400, code="context_length_exceeded", message="maximum context length is 10 tokens")


@pytest.mark.parametrize(
    ("reply", "code", "options"),
    [
        (fault(503), "lm_unavailable", {}),
        (fault(429), "lm_rate_limited", {}),
        (hanging(), "lm_timeout", {"timeout": 0.2}),
        (TOO_LONG, "lm_context_window", {}),
        (text("nothing that was asked for"), "parse_error", {}),
    ],
    ids=["unavailable", "rate limited", "timeout", "context window", "parse error"],
)
async def test_the_next_one_answers_and_the_response_says_why(
    runtime: dspex.Runtime,
    first: Provider,
    second: Provider,
    reply: Reply,
    code: str,
    options: dict[str, Any],
) -> None:
    """If this failed, an outage of one provider would be one of the application, or nobody would know."""
    first.reply = lambda _: reply
    told: list[dspex.FellBack] = []
    stop = runtime.on(dspex.FellBack, told.append)
    answer = await runtime.adapter().agenerate("q", signature=QUESTION, lm=chain(first, second, **options))
    assert answer.answer == "q"
    assert [(one.model, one.code) for one in answer.fallbacks] == [("openai/first", code)]
    assert answer.fallbacks[0].message
    assert answer.model == "second"
    assert answer.attempts == 2
    assert answer.requests[-1].status == "ok"
    assert len(answer.requests) >= 2, "what the first one was asked is told as well"
    assert answer.to_dict()["fallbacks"][0]["code"] == code
    until(lambda: any(one.request_id == answer.request_id for one in told))
    stop()


@pytest.mark.parametrize(
    ("reply", "kind"),
    [(fault(401), dspex.LMAuth), (fault(402), dspex.LMBilling), (fault(400), dspex.LMInvalidRequest)],
)
async def test_what_somebody_has_to_mend_is_no_reason_to_ask_another(
    runtime: dspex.Runtime, first: Provider, second: Provider, reply: Reply, kind: type[dspex.DspexError]
) -> None:
    """If this failed, a wrong key would go unnoticed, and the dearer model be paid for months."""
    first.reply, before = lambda _: reply, len(second.requests)
    with pytest.raises(kind):
        await runtime.adapter().agenerate("q", lm=chain(first, second))
    assert len(second.requests) == before


async def test_an_answer_has_no_fallbacks(runtime: dspex.Runtime, first: Provider, second: Provider) -> None:
    """If this failed, each call would be paid twice."""
    before = len(second.requests)
    answer = await runtime.adapter().agenerate("q", lm=chain(first, second))
    assert answer.fallbacks == []
    assert answer.model == "first"
    assert len(second.requests) == before


async def test_when_none_answers_all_of_them_are_told(
    runtime: dspex.Runtime, first: Provider, second: Provider
) -> None:
    """If this failed, somebody would look for the cause in the wrong place."""
    first.reply, second.reply = lambda _: fault(503), lambda _: fault(429)
    with pytest.raises(dspex.LMRateLimited) as caught:
        await runtime.adapter().agenerate("q", lm=chain(first, second))
    assert [one["code"] for one in caught.value.details["fallbacks"]] == ["lm_unavailable"]
    assert [one["status"] for one in caught.value.details["requests"]] == [
        "lm_unavailable",
        "lm_rate_limited",
    ]


async def test_one_without_a_key_is_passed_over(
    runtime: dspex.Runtime, first: Provider, second: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, a fallback that was never set up would hide the one after it."""
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    first.reply = lambda _: fault(503)
    lm = model(first, "first", fallbacks=["anthropic/claude-x", model(second)])
    answer = await runtime.adapter().agenerate("q", lm=lm)
    assert [one.code for one in answer.fallbacks] == ["lm_unavailable", "lm_not_configured"]


async def test_a_breaker_that_is_open_is_a_reason(
    runtime: dspex.Runtime, first: Provider, second: Provider
) -> None:
    """If this failed, calls would fail at once where another provider could answer them."""
    first.reply = lambda _: fault(503)
    lm = chain(first, second, breaker=dspex.Breaker(failures=2, pause=600.0))
    codes = [(await runtime.adapter().agenerate("q", lm=lm)).fallbacks[0].code for _ in range(5)]
    assert codes == ["lm_unavailable"] * 2 + ["lm_circuit_open"] * 3


async def test_the_deadline_is_that_of_all_together(
    runtime: dspex.Runtime, first: Provider, second: Provider
) -> None:
    """If this failed, a call with fallbacks would take its timeout once for each of them."""
    first.reply = second.reply = lambda _: hanging()
    lm = chain(first, second, timeout=0.2)
    with pytest.raises(dspex.PythonTimeout) as caught:
        await runtime.adapter(timeout=1.0).agenerate("q", lm=lm)
    assert [one["code"] for one in caught.value.details["fallbacks"]] == ["lm_timeout"]


def spent_money(amount: int) -> str:
    """Spend an amount."""
    called.append(amount)
    return "spent"


called: list[int] = []
STEP = text(
    "[[ ## next_thought ## ]]\nspend\n\n[[ ## next_tool_name ## ]]\nspent_money\n\n"
    '[[ ## next_tool_args ## ]]\n{"amount": 5}\n\n[[ ## completed ## ]]'
)


@pytest.mark.parametrize("idempotent", [False, True])
async def test_nobody_else_is_asked_once_a_tool_ran(
    runtime: dspex.Runtime, first: Provider, second: Provider, idempotent: bool
) -> None:
    """If this failed, a tool that pays would pay once for each LM."""
    called.clear()
    begun = len(first.requests)
    first.reply = lambda request: STEP if request.number == begun + 1 else fault(503)
    how: dict[str, Any] = {
        "module": "dspy.ReAct",
        "signature": QUESTION,
        "tools": [dspex.Tool(spent_money, idempotent=idempotent)],
        "lm": chain(first, second),
        "options": {"max_iters": 2},
    }
    before = len(second.requests)
    if idempotent:
        second.reply = lambda _: fault(429)
        with pytest.raises(dspex.LMRateLimited):
            await runtime.adapter().agenerate("q", **how)
        assert len(second.requests) > before
    else:
        with pytest.raises(dspex.LMUnavailable) as caught:
            await runtime.adapter().agenerate("q", **how)
        assert "fallbacks" not in caught.value.details
        assert len(second.requests) == before
    assert called == [5]


# Streams, batches, sessions


async def test_a_stream_says_that_another_one_answers(
    runtime: dspex.Runtime, first: Provider, second: Provider
) -> None:
    """If this failed, who streams would have no fallback, or would think that a worker was lost."""
    first.reply = lambda _: fault(503)
    async with runtime.adapter().astream("q", lm=chain(first, second)) as stream:
        events = [event async for event in stream]
    [status] = [event for event in events if isinstance(event, dspex.Status)]
    assert "openai/first did not answer (lm_unavailable)" in status.text
    final = events[-1]
    assert isinstance(final, dspex.Final)
    assert [one.code for one in final.response.fallbacks] == ["lm_unavailable"]


async def test_nobody_else_is_asked_once_a_part_of_the_answer_was_read(
    runtime: dspex.Runtime, first: Provider, second: Provider
) -> None:
    """If this failed, a reader would get the beginning of one answer and the end of another."""
    first.reply = lambda _: paced(text("[[ ## response ## ]]\n" + "word " * 200), breaks=100)
    before = len(second.requests)

    async def read() -> None:
        async with runtime.adapter().astream("q", lm=chain(first, second)) as stream:
            async for _ in stream:
                pass

    with pytest.raises(dspex.DspexError) as caught:
        await read()
    assert caught.value.code.startswith("lm_")
    assert len(second.requests) == before


async def test_each_item_of_a_batch_falls_back_by_itself(
    runtime: dspex.Runtime, first: Provider, second: Provider
) -> None:
    """If this failed, one bad row would change the model of all others, or fail."""
    first.reply = lambda request: fault(503) if request.number % 2 else echo()
    items = [{"question": f"q{n}"} for n in range(20)]
    outcomes = await runtime.adapter(lm=chain(first, second)).abatch(items, signature=QUESTION)
    answered = [one.response for one in outcomes if one.response is not None]
    assert [one.answer for one in answered] == [f"q{n}" for n in range(20)]
    assert {one.model for one in answered} == {"first", "second"}
    assert all(bool(one.fallbacks) == (one.model == "second") for one in answered)


async def test_profiles_name_each_other(first: Provider, second: Provider, tmp_path: Path) -> None:
    """If this failed, fallbacks could not be said in a settings file, or a wrong name only in an outage."""
    file = tmp_path / "dspex.toml"
    profile = '[lm.{0}]\nmodel = "openai/{0}"\nbase_url = "{1}"\nbreaker.failures = 2\nretry.attempts = 1\n'
    written = profile.format("first", first.base_url) + 'fallbacks = ["second"]\n'
    written = written.replace("breaker.", 'api_key = "env:SOME_KEY"\nbreaker.')
    file.write_text(
        'default_lm = "first"\n'
        + written
        + profile.format("second", second.base_url).replace("breaker.", 'api_key = "env:SOME_KEY"\nbreaker.')
    )
    first.reply = lambda _: fault(503)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOME_KEY", "k")
        async with dspex.testing.InProcessRuntime(settings=dspex.Settings(file=file), pools=ONE) as runtime:
            answer = await runtime.adapter().agenerate("q")
    assert answer.model == "second"
    file.write_text(file.read_text().replace('["second"]', '["third"]'))
    with pytest.raises(dspex.InvalidOption, match="third"):
        dspex.Runtime(settings=dspex.Settings(file=file))


@pytest.mark.parametrize("fallbacks", ["openai/x", 3, [3], [""], None])
def test_what_are_no_fallbacks_is_refused(fallbacks: Any) -> None:
    """If this failed, a name alone would be read letter by letter."""
    with pytest.raises(dspex.InvalidOption, match="fallbacks"):
        dspex.LM("openai/x", fallbacks=fallbacks)


async def test_many_calls_at_once_all_get_an_answer(
    runtime: dspex.Runtime, first: Provider, second: Provider
) -> None:
    """If this failed, an outage under load would lose calls that another provider could have answered."""
    first.reply = lambda request: delayed(0.01, fault(503) if request.number % 3 else echo())
    lm = chain(first, second, breaker=dspex.Breaker(failures=10, pause=0.05))
    adapter = runtime.adapter(timeout=60.0)
    ended = await asyncio.gather(*(adapter.agenerate(f"q{n}", lm=lm) for n in range(100)))
    assert [one.response for one in ended] == [f"q{n}" for n in range(100)]


class Even(pydantic.BaseModel):
    number: int

    @pydantic.field_validator("number")
    @classmethod
    def is_even(cls, number: int) -> int:
        if number % 2:
            raise ValueError("it is odd")
        return number


EVEN = {"inputs": {"question": str}, "outputs": {"answer": Even}}


def number(value: int) -> Reply:
    return text(f'[[ ## answer ## ]]\n{{"number": {value}}}\n\n[[ ## completed ## ]]')


async def test_an_answer_that_the_callers_own_type_refuses_is_none(
    runtime: dspex.Runtime, first: Provider, second: Provider
) -> None:
    """If this failed, an answer that only the caller's class refuses would be told as an error at once."""
    first.reply, second.reply = lambda _: number(3), lambda _: number(4)
    answer = await runtime.adapter().agenerate("q", signature=EVEN, lm=chain(first, second))
    assert answer.answer == Even(number=4)
    assert [one.code for one in answer.fallbacks] == ["parse_error"]
    assert len(answer.requests) == 2
    with pytest.raises(dspex.ParseError, match="odd") as raised:
        await runtime.adapter().agenerate("q", signature=EVEN, lm=model(first, "first"))
    assert raised.value.code == "parse_error"


async def test_an_answer_that_the_callers_own_type_refuses_is_not_kept(
    runtime: dspex.Runtime, first: Provider
) -> None:
    """If this failed, one wrong answer would be given again and again until it is too old."""
    lm = model(first, "kept", cache=True)
    first.reply = lambda _: number(3)
    with pytest.raises(dspex.ParseError, match="odd"):
        await runtime.adapter().agenerate("kept", signature=EVEN, lm=lm)
    first.reply = lambda _: number(4)
    answers = [await runtime.adapter().agenerate("kept", signature=EVEN, lm=lm) for _ in range(2)]
    assert [(one.answer.number, one.cached) for one in answers] == [(4, False), (4, True)]


async def test_only_the_wait_for_a_slot_counts_as_such(
    runtime: dspex.Runtime, first: Provider, second: Provider
) -> None:
    """If this failed, an LM that is slow to fail would look like a pool that is too small."""
    first.reply = lambda _: delayed(0.5, fault(503))
    answer = await runtime.adapter().agenerate("q", signature=QUESTION, lm=chain(first, second))
    assert [one.code for one in answer.fallbacks] == ["lm_unavailable"]
    assert answer.timing.queued + 0.5 <= answer.timing.total
