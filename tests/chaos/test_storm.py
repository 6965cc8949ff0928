"""Workers that are killed again and again: what callers see, and what is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator

import pytest
from bench.measure import provider

import dspex
from tests.chaos.figures import alone, back_to, ends, figures, pids, zygote_of

pytestmark = [pytest.mark.chaos, pytest.mark.anyio]

CALLS, AT_ONCE, WORKERS = 1500, 24, 4


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """A provider whose connections are not among the supervisor's descriptors."""
    with provider(0.075) as base_url:
        yield base_url


async def killing(runtime: dspex.Runtime, every: float, kills: list[int]) -> None:
    """SIGKILL one worker after another until cancelled."""
    while True:
        await asyncio.sleep(every)
        if running := pids(runtime):
            kills.append(random.choice(running))
            with contextlib.suppress(ProcessLookupError):
                os.kill(kills[-1], signal.SIGKILL)


async def test_a_storm_of_kills_costs_hardly_a_call(elsewhere: str) -> None:
    """If this failed, workers that crash would cost callers answers, or the supervisor its memory."""
    lm = dspex.LM("openai/x", base_url=elsewhere)
    pools = {"general": dspex.PoolOptions(workers=WORKERS)}
    async with dspex.Runtime(lm, pools=pools) as runtime:
        adapter = runtime.adapter(timeout=60.0)

        async def ask(number: int) -> None:
            answer = await adapter.agenerate(f"q{number}")
            assert answer.response == f"q{number}", "another caller's answer"

        kills: list[int] = []
        await back_to(runtime, WORKERS)
        storm = asyncio.create_task(killing(runtime, 0.1, kills))
        await ends(CALLS // 5, AT_ONCE, ask)  # what grows once has grown
        storm.cancel()
        await back_to(runtime, WORKERS)
        await alone(runtime)
        before, counted = figures(), runtime.stats().pools["general"]
        kills.clear()
        storm = asyncio.create_task(killing(runtime, 0.1, kills))
        found = await ends(CALLS, AT_ONCE, ask)
        storm.cancel()
        seconds = await back_to(runtime, WORKERS)
        await alone(runtime)
        after, stats = figures(), runtime.stats().pools["general"]
    print(f"{len(kills)} kills: {dict(found)}; complete after {seconds:.2f} s; {before} -> {after}")
    assert len(kills) > 10
    assert sum(found.values()) == CALLS
    assert found["ok"] >= 0.99 * CALLS
    assert stats.unfinished == 0
    assert stats.queued == 0
    assert sum(stats.counters.values()) - sum(counted.counters.values()) == stats.calls - counted.calls
    assert after.descriptors <= before.descriptors + 2
    assert after.threads <= before.threads
    assert after.zombies == 0
    assert after.rss < before.rss + 16


async def test_a_thousand_kills_leave_nothing_behind() -> None:
    """If this failed, each lost worker would leave a descriptor, a thread, a zombie or some memory."""
    async with dspex.Runtime(pools={"general": dspex.PoolOptions(workers=WORKERS)}) as runtime:
        await back_to(runtime, WORKERS)
        zygote = zygote_of(runtime)
        await _kill_in_a_row(runtime, 200)
        before, forking = figures(), figures(zygote)
        started = time.monotonic()
        await _kill_in_a_row(runtime, 1000)
        seconds = time.monotonic() - started
        after, forked = figures(), figures(zygote)
        assert zygote_of(runtime) == zygote
    print(f"1000 kills in {seconds:.1f} s: {before} -> {after}; the zygote: {forking} -> {forked}")
    assert (after.descriptors, after.threads) == (before.descriptors, before.threads)
    assert (forked.descriptors, forked.threads) == (forking.descriptors, forking.threads)
    assert (after.children, after.zombies) == (WORKERS + 1, 0)
    assert after.rss < before.rss + 16
    assert forked.rss < forking.rss + 8


async def _kill_in_a_row(runtime: dspex.Runtime, count: int) -> None:
    """Kill so many workers, each of which has answered, so that its end is no failed start."""
    pool = runtime.pool("general")
    ended = 0
    while ended < count:
        await asyncio.gather(*(pool.aexecute("ping") for _ in range(2 * WORKERS)))
        answered = [worker.pid for worker in runtime.stats().pools["general"].workers if worker.done]
        for pid in answered[: count - ended]:
            os.kill(pid, signal.SIGKILL)
        ended += len(answered[: count - ended])
        while set(answered) & {worker.pid for worker in runtime.stats().pools["general"].workers}:
            await asyncio.sleep(0.002)
        await back_to(runtime, WORKERS)
