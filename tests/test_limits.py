"""Limits as a counting provider sees them, through real workers; what retries and lost workers leave."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import dspex
from tests.provider import (
    Provider,
    Reply,
    Request,
    Script,
    delayed,
    echo,
    fault,
    fields,
    hanging,
    sequence,
    text,
)

pytestmark = pytest.mark.anyio
TWO = {"general": dspex.PoolOptions(workers=2)}


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


def open_descriptors(pids: list[int]) -> list[int]:
    """How many each process has open."""
    return [psutil.Process(pid).num_fds() for pid in pids]


def mixed(seed: int, share_refused: float = 0.2) -> Script:
    """Replies at random: good, unreadable (DSPy asks again in JSON), or 429."""
    chance = random.Random(seed)

    def reply(_: Request) -> Reply:
        drawn = chance.random()
        if drawn < share_refused:
            return fault(429, retry_after=0.02)
        return delayed(0.02, text("no fields here") if drawn < share_refused + 0.2 else echo())

    return reply


async def test_in_flight_holds_for_all_workers_and_all_requests_of_a_call(provider: Provider) -> None:
    """Retries, JSON fallbacks or a second worker would ask more at once than the customer's plan allows."""
    provider.reply = mixed(7)
    lm = dspex.LM(
        "openai/x",
        base_url=provider.base_url,
        limits=dspex.Limits(in_flight=5),
        retry=dspex.Retry(attempts=6, wait=0.01),
    )
    async with dspex.Runtime(lm, pools=TWO) as runtime:
        adapter = runtime.adapter(timeout=100.0)
        calls = [adapter.agenerate(f"q{n}", signature="question -> answer") for n in range(200)]
        ended = await asyncio.gather(*calls, return_exceptions=True)
        left = runtime.stats().pools["general"].queued
    kinds = Counter(type(one).__name__ for one in ended)
    assert set(kinds) <= {"Response", "ParseError", "LMRateLimited"}, kinds
    assert kinds["Response"] > 150
    assert len(provider.requests) > 250
    assert provider.peak_in_flight <= 5
    assert left == 0
    told = sum(len(one.requests) for one in ended if isinstance(one, dspex.Response))
    told += sum(len(one.details["requests"]) for one in ended if isinstance(one, dspex.DspexError))
    for one in ended:
        if isinstance(one, dspex.Response):
            told += sum(request.retries for request in one.requests)
        elif isinstance(one, dspex.DspexError):
            told += sum(request["retries"] for request in one.details["requests"])
    assert told == len(provider.requests), "each request that was sent is told, once"


async def test_a_call_without_a_permit_waits_in_the_queue_and_takes_no_slot(provider: Provider) -> None:
    """One customer's limit would fill the slots, and everybody would wait."""
    provider.reply = lambda _: hanging()
    limited = dspex.LM("openai/limited", base_url=provider.base_url, limits=dspex.Limits(in_flight=1))
    free = dspex.LM("openai/free", base_url=provider.base_url)
    pools = {"general": dspex.PoolOptions(workers=1, slots=2)}
    async with dspex.Runtime(pools=pools) as runtime:
        adapter = runtime.adapter(timeout=20.0)
        held = [asyncio.create_task(adapter.agenerate(f"h{n}", lm=limited)) for n in range(10)]
        while not provider.requests:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        stats = runtime.stats().pools["general"]
        assert stats.queued == 9
        [limits] = runtime.stats().lms
        assert (limits.model, limits.in_flight, limits.requests) == ("openai/limited", 1, 1)
        assert stats.workers[0].in_flight == 1
        provider.reply = lambda _: echo()
        answer = await adapter.agenerate("q", lm=free, timeout=10.0)
        assert answer.response == "q"
        with pytest.raises(dspex.PythonTimeout) as caught:
            await adapter.agenerate("late", lm=limited, timeout=0.2)
        assert caught.value.details["phase"] == "queued"
        assert "in_flight=1" in caught.value.message
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        assert (await adapter.agenerate("after", lm=limited)).response == "after"


async def test_a_call_that_a_minute_holds_back_says_when_to_come_back(provider: Provider) -> None:
    """A client would try again at once, or give up."""
    limits = dspex.Limits(requests_per_minute=1)
    lm = dspex.LM("openai/x", base_url=provider.base_url, limits=limits)
    async with dspex.Runtime(lm, pools=TWO) as runtime:
        await runtime.adapter().agenerate("q")
        with pytest.raises(dspex.PythonTimeout) as caught:
            await runtime.adapter(timeout=0.1).agenerate("r")
    assert "requests_per_minute=1" in caught.value.message
    assert caught.value.retry_after is not None
    assert 50 < caught.value.retry_after < 62


async def test_a_killed_workers_permits_come_back(provider: Provider) -> None:
    """After some crashes a limited profile would be asked no more."""
    provider.reply = lambda _: hanging()
    lm = dspex.LM("openai/x", base_url=provider.base_url, limits=dspex.Limits(in_flight=3))
    pools = {"general": dspex.PoolOptions(workers=1, max_reruns=0)}
    async with dspex.Runtime(lm, pools=pools) as runtime:
        adapter = runtime.adapter(timeout=30.0)
        lost = [asyncio.create_task(adapter.agenerate(f"l{n}")) for n in range(3)]
        while len(provider.requests) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        provider.reply = lambda _: echo()
        os.kill(runtime.stats().pools["general"].workers[0].pid, signal.SIGKILL)
        ended = await asyncio.gather(*lost, return_exceptions=True)
        assert [type(one) for one in ended] == [dspex.WorkerLost] * 3
        answers = await asyncio.gather(*(adapter.agenerate(f"q{n}") for n in range(12)))
        assert [answer.response for answer in answers] == [f"q{n}" for n in range(12)]
    assert provider.peak_in_flight <= 3


async def test_what_a_lost_worker_had_paid_for_is_in_the_answer(provider: Provider, tmp_path: Path) -> None:
    """A bill would be higher than what the responses say."""
    mark = tmp_path / "killed"

    def reply(_: Request) -> Reply:
        # The first answer cannot be read; the second request of that call never gets its answer.
        if len(provider.requests) == 1:
            return text("no fields here")
        return hanging() if not mark.exists() else echo()

    provider.reply = reply
    async with dspex.Runtime(
        dspex.LM("openai/gpt-4o-mini", base_url=provider.base_url),
        pools={"general": dspex.PoolOptions(workers=1)},
    ) as runtime:
        call = asyncio.create_task(runtime.adapter().agenerate("q", signature="question -> answer"))
        while len(provider.requests) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        mark.touch()
        os.kill(runtime.stats().pools["general"].workers[0].pid, signal.SIGKILL)
        answer = await call
    assert answer.attempts == 2
    assert [request.status for request in answer.requests] == ["ok", "ok"]
    assert answer.usage.total_tokens == sum(request.usage.total_tokens for request in answer.requests)
    assert answer.cost is not None
    assert answer.cost > (answer.requests[1].cost or 0)


async def test_a_429_storm_slows_the_runtime_and_passes(provider: Provider) -> None:
    """Without limits of its own, a profile would hammer a provider that is down, and stay slow afterwards."""
    until = time.monotonic() + 1.5
    refused = 0

    def reply(_: Request) -> Reply:
        nonlocal refused
        if time.monotonic() > until:
            return delayed(0.02, echo())
        refused += 1
        return fault(429)

    provider.reply = reply
    lm = dspex.LM("openai/x", base_url=provider.base_url, retry=dspex.Retry(attempts=8, wait=0.05))
    async with dspex.Runtime(lm, pools=TWO) as runtime:
        adapter = runtime.adapter(timeout=60.0)
        ended = await asyncio.gather(
            *(adapter.agenerate(f"q{n}") for n in range(100)), return_exceptions=True
        )
        provider.peak_in_flight = 0
        before = len(provider.requests)
        while provider.peak_in_flight < 50:
            provider.peak_in_flight = 0
            await asyncio.gather(*(adapter.agenerate(f"r{n}") for n in range(100)))
    assert sum(isinstance(one, dspex.Response) for one in ended) >= 90
    # 100 calls at once; asking on at their own pace they would have made 400 requests in that time.
    assert refused < 250
    assert (len(provider.requests) - before) % 100 == 0, "nothing is asked twice any more"


async def test_a_request_that_is_tried_again_is_one_request_with_its_retries(provider: Provider) -> None:
    """A user could not see why a call was slow."""
    provider.reply = sequence(fault(429, retry_after=0.01), fault(503), fields(answer="yes"))
    lm = dspex.LM(
        "openai/x",
        base_url=provider.base_url,
        limits=dspex.Limits(in_flight=1),
        retry=dspex.Retry(wait=0.01),
    )
    async with dspex.Runtime(lm, pools=TWO) as runtime:
        answer = await runtime.adapter().agenerate("q", signature="question -> answer")
    assert [(request.status, request.retries) for request in answer.requests] == [("ok", 2)]


async def test_limits_hold_for_a_profile_that_was_not_used_for_long(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gate would be forgotten while its profile is remembered, and nothing would hold it."""
    monkeypatch.setattr("dspex.lm.gates._GATES_KEPT", 1)
    provider.reply = lambda _: delayed(0.05, text("no fields here"))
    lm = dspex.LM("openai/x", base_url=provider.base_url, limits=dspex.Limits(in_flight=1))
    async with dspex.Runtime(lm, pools=TWO) as runtime:
        adapter = runtime.adapter()
        with pytest.raises(dspex.ParseError):
            await adapter.agenerate("first", signature="question -> answer")
        for number in range(3):
            other = dspex.LM(f"openai/{number}", base_url=provider.base_url)
            with pytest.raises(dspex.ParseError):
                await adapter.agenerate("other", lm=other, signature="question -> answer")
        provider.peak_in_flight = 0
        calls = [adapter.agenerate(f"q{n}", signature="question -> answer") for n in range(4)]
        await asyncio.gather(*calls, return_exceptions=True)
    assert provider.peak_in_flight == 1


async def test_pools_that_share_a_limit_share_it(provider: Provider) -> None:
    """A busy pool would take every permit, and calls of another would wait until their deadlines."""
    provider.reply = lambda _: delayed(0.02, echo())
    lm = dspex.LM("openai/x", base_url=provider.base_url, limits=dspex.Limits(in_flight=1))
    one = dspex.PoolOptions(workers=1)
    async with dspex.Runtime(lm, pools={"general": one, "other": one}) as runtime:
        busy, other = runtime.adapter(), runtime.adapter("other", timeout=15.0)
        ended = asyncio.Event()

        async def steadily() -> None:
            while not ended.is_set():
                await busy.agenerate("busy")

        callers = [asyncio.create_task(steadily()) for _ in range(4)]
        answers = await asyncio.gather(*(other.agenerate("other") for _ in range(3)))
        ended.set()
        await asyncio.gather(*callers)
    assert [answer.response for answer in answers] == ["other"] * 3
    assert provider.peak_in_flight == 1


async def test_a_new_worker_asks_at_a_gate_that_was_slowed_before(provider: Provider) -> None:
    """A replaced worker would hammer the busy provider of a second LM that has no limits."""
    provider.reply = lambda r: fault(429, retry_after=5) if r.model == "second" else text("yes, it is")
    second = dspex.LM("openai/second", base_url=provider.base_url, retry=dspex.Retry(attempts=1))
    lm = dspex.LM("openai/x", base_url=provider.base_url, adapter="two_step", extraction_lm=second)
    async with dspex.Runtime(lm, pools={"general": dspex.PoolOptions(workers=1)}) as runtime:
        adapter = runtime.adapter(timeout=1.0)
        with pytest.raises(dspex.LMRateLimited):
            await adapter.agenerate("q", signature="question -> answer")
        os.kill(runtime.stats().pools["general"].workers[0].pid, signal.SIGKILL)
        while runtime.stats().pools["general"].restarts != {"crashed": 1}:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        calls = [adapter.agenerate(f"r{n}", signature="question -> answer") for n in range(3)]
        ended = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(one) for one in ended] == [dspex.PythonTimeout] * 3
    assert [request.model for request in provider.requests].count("second") == 1


@pytest.mark.slow
@pytest.mark.timeout(200)
async def test_requests_per_minute_hold_for_200_calls_at_once(provider: Provider) -> None:
    """A provider that counts would refuse, or bill a higher plan."""
    provider.reply = mixed(11)
    lm = dspex.LM(
        "openai/x",
        base_url=provider.base_url,
        limits=dspex.Limits(requests_per_minute=60, in_flight=5),
        retry=dspex.Retry(attempts=6, wait=0.01),
    )
    async with dspex.Runtime(lm, pools=TWO) as runtime:
        adapter = runtime.adapter(timeout=68.0)
        calls = [adapter.agenerate(f"q{n}", signature="question -> answer") for n in range(200)]
        ended = await asyncio.gather(*calls, return_exceptions=True)
    kinds = Counter(type(one).__name__ for one in ended)
    assert set(kinds) <= {"Response", "ParseError", "LMRateLimited", "PythonTimeout"}, kinds
    at = sorted(request.at for request in provider.requests)
    assert len(at) > 60, "the second minute was used, too"
    for first in at:
        assert sum(first <= one < first + 60 for one in at) <= 60
    assert provider.peak_in_flight <= 5


@pytest.mark.slow
async def test_ten_thousand_deadlines_leave_connections_as_they_were(
    provider: Provider,
) -> None:
    """DSPy keys its connections on an LM's timeout: each deadline of its own would leave connections open."""
    async with dspex.Runtime(dspex.LM("openai/x", base_url=provider.base_url), pools=TWO) as runtime:
        adapter = runtime.adapter()

        async def some(numbers: range) -> None:
            for number in numbers:
                await adapter.agenerate("q", timeout=30.0 + number / 1000)

        await asyncio.gather(*(some(range(n, 500, 32)) for n in range(32)))
        pids = [worker.pid for worker in runtime.stats().pools["general"].workers]
        before = open_descriptors([os.getpid(), *pids]), provider.connections
        await asyncio.gather(*(some(range(n, 10_000, 32)) for n in range(32)))
        after = open_descriptors([os.getpid(), *pids]), provider.connections
        assert [worker.pid for worker in runtime.stats().pools["general"].workers] == pids
    for earlier, later in zip(before[0], after[0], strict=True):
        assert later <= earlier + 8
    assert after[1] <= before[1] + 16
