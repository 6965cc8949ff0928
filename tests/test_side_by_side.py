"""Attempts and completions of one call are asked for side by side, each of them a request of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

import dspex
from dspex.worker.threads import side_by_side
from tests.processes import until
from tests.provider import Provider, Reply, Request, delayed, fault, fields

ONE = {"general": dspex.PoolOptions(workers=1)}


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as opened:
        yield opened


@pytest.fixture(scope="module")
def runtime(provider: Provider) -> Iterator[dspex.Runtime]:
    lm = dspex.LM("openai/x", base_url=provider.base_url, retry=dspex.Retry(attempts=1))
    with dspex.Runtime(lm, pools=ONE) as opened:
        yield opened


def numbered(request: Request) -> Reply:
    """Each request has an answer of its own, and none has it before three have asked."""
    return fields(reasoning=f"r{request.number}", rationale="all told", answer=f"a{request.number}")


def test_completions_are_asked_for_at_once(provider: Provider, runtime: dspex.Runtime) -> None:
    """If this failed, `n=5` would take as long as five calls."""
    provider.requests.clear()
    most = 0

    def script(request: Request) -> Reply:
        nonlocal most
        most = max(most, provider.in_flight)
        return delayed(0.3, numbered(request))

    provider.reply = script
    answer = runtime.adapter().generate("Why?", signature="question -> answer", n=5)
    assert most == 5
    assert answer.completions is not None
    assert sorted(each["answer"] for each in answer.completions) == sorted(
        f"a{request.number}" for request in provider.requests
    )
    assert answer.completions[0]["answer"] == answer.answer
    assert len(answer.requests) == 5
    assert answer.usage.total_tokens == sum(request.usage.total_tokens for request in answer.requests)


def test_attempts_are_made_at_once_and_then_compared(provider: Provider, runtime: dspex.Runtime) -> None:
    """If this failed, a comparison of five would take as long as six calls."""
    provider.requests.clear()
    most = 0

    def script(request: Request) -> Reply:
        nonlocal most
        most = max(most, provider.in_flight)
        return delayed(0.3, numbered(request))

    provider.reply = script
    answer = runtime.adapter().generate(
        "Why?", module="MultiChainComparison", signature="question -> answer", M=5
    )
    assert most == 5
    assert list(answer.outputs) == ["rationale", "answer"]
    assert len(answer.requests) == 6
    comparison = str(provider.requests[-1].body)
    for request in provider.requests[:5]:
        assert f"not sure but my prediction is a{request.number}»" in comparison


def test_an_attempt_that_fails_ends_the_call_and_the_others(
    provider: Provider, runtime: dspex.Runtime
) -> None:
    """If this failed, a comparison would go on with fewer attempts than were asked for, or pay for more."""
    provider.requests.clear()
    provider.reply = lambda request: (
        fault(401) if request.number % 3 == 0 else delayed(30.0, numbered(request))
    )
    with pytest.raises(dspex.LMAuth):
        runtime.adapter().generate("Why?", module="MultiChainComparison", signature="question -> answer")
    until(lambda: provider.in_flight == 0)
    assert len(provider.requests) == 3


def test_the_limits_of_a_profile_hold_for_all_of_them(provider: Provider) -> None:
    """If this failed, a call for many completions would go past the limit that holds for all others."""
    most = 0

    def script(request: Request) -> Reply:
        nonlocal most
        most = max(most, provider.in_flight)
        return delayed(0.02, numbered(request))

    provider.reply = script
    lm = dspex.LM("openai/x", base_url=provider.base_url, limits=dspex.Limits(in_flight=2))
    with dspex.Runtime(lm, pools=ONE) as runtime:
        adapter = runtime.adapter()
        assert len(adapter.generate("Why?", signature="question -> answer", n=6).completions or []) == 6
        adapter.generate("Why?", module="MultiChainComparison", signature="question -> answer", M=5)
    assert most == 2


def test_one_that_fails_ends_the_others() -> None:
    """If this failed, requests would run on for a call that has its error already."""
    ended: list[str] = []

    async def waits(name: str) -> None:
        try:
            await asyncio.sleep(30)
        finally:
            ended.append(name)

    async def fails() -> None:
        await asyncio.sleep(0.01)
        raise ValueError("first")

    async def run() -> None:
        with pytest.raises(ValueError, match="first"):
            await side_by_side([waits("a"), fails(), waits("b")])
        assert sorted(ended) == ["a", "b"]
        ended.clear()
        task = asyncio.ensure_future(side_by_side([waits("c"), waits("d")]))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sorted(ended) == ["c", "d"]

    asyncio.run(run())
