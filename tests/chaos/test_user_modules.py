"""Programs of users, each alone in its process: what they do to themselves costs nobody else anything."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import dspex
from tests.chaos.figures import back_to, pids
from tests.processes import alive, lines
from tests.provider import Provider, delayed, echo

pytestmark = [pytest.mark.chaos, pytest.mark.anyio]

SETTINGS = dspex.Settings(allow_modules=("tests.chaos.programs",))
PROGRAMS = "tests.chaos.programs"


@asynccontextmanager
async def opened(provider: Provider, adapter: str = "auto") -> AsyncIterator[dspex.Runtime]:
    """Two shared workers, and as many of one's own as programs want."""
    lm = dspex.LM("openai/x", base_url=provider.base_url, adapter=adapter)
    pools = {"general": dspex.PoolOptions(workers=2), "isolated": dspex.PoolOptions(grace=0.3)}
    async with dspex.Runtime(lm, pools=pools, settings=SETTINGS) as runtime:
        await back_to(runtime, 2)
        yield runtime


@pytest.mark.parametrize("name", ["Hang", "Spin", "HoldGil", "Swallow"])
async def test_a_stuck_program_is_killed_at_its_deadline(provider: Provider, name: str) -> None:
    """If this failed, users' programs would run on after their callers were told that they had ended."""
    async with opened(provider) as runtime:
        before = pids(runtime)
        with pytest.raises(dspex.PythonTimeout) as caught:
            await runtime.adapter().agenerate("?", module=f"{PROGRAMS}:{name}", timeout=0.5)
        assert caught.value.details["killed"] is True
        assert pids(runtime) == before, "the shared workers have nothing to do with it"
        while runtime.stats().pools["isolated"].workers:
            await asyncio.sleep(0.01)


async def test_the_family_of_a_stuck_program_dies_with_it(provider: Provider, tmp_path: Path) -> None:
    """If this failed, what a program has started would be left, in a session of its own or not."""
    pidfile = tmp_path / "pids"
    async with opened(provider) as runtime:
        with pytest.raises(dspex.PythonTimeout):
            await runtime.adapter().agenerate(
                module=f"{PROGRAMS}:Family", inputs={"pidfile": str(pidfile)}, timeout=1.0
            )
        family = [int(pid) for pid in lines(pidfile)]
        assert len(family) == 2
        while any(alive(pid) for pid in family):
            await asyncio.sleep(0.01)


async def test_twenty_hanging_programs_do_not_slow_their_neighbours(provider: Provider) -> None:
    """If this failed, programs that hang would take threads, slots or the loop from other callers."""
    provider.reply = lambda _: delayed(0.05, echo())
    async with opened(provider) as runtime:
        adapter = runtime.adapter(timeout=60.0)

        async def p50(calls: int = 60) -> float:
            times = []
            for number in range(calls):
                started = time.perf_counter()
                assert (await adapter.agenerate(f"q{number}")).response == f"q{number}"
                times.append(time.perf_counter() - started)
            return statistics.median(times)

        await p50()
        alone = await p50()
        hanging = [
            asyncio.create_task(adapter.agenerate("?", module=f"{PROGRAMS}:Hang", timeout=8.0))
            for _ in range(20)
        ]
        while sum(worker.in_flight for worker in runtime.stats().pools["isolated"].workers) < 20:
            await asyncio.sleep(0.01)
        beside = await p50()
        errors = await asyncio.gather(*hanging, return_exceptions=True)
        assert all(isinstance(error, dspex.PythonTimeout) for error in errors)
    print(f"p50 alone {alone * 1e3:.1f} ms, beside 20 that hang {beside * 1e3:.1f} ms: {beside / alone:.2f}")
    assert beside < 5 * alone


async def test_poison_costs_no_innocent_its_answer(provider: Provider) -> None:
    """If this failed, one input that crashes a worker would fail those that happened to share it."""
    provider.reply = lambda _: delayed(2.0, echo())
    async with opened(provider, adapter=f"{PROGRAMS}:Deadly") as runtime:
        adapter = runtime.adapter(timeout=60.0)
        innocents = [asyncio.create_task(adapter.agenerate(f"q{number}")) for number in range(63)]
        while provider.in_flight < 63:
            await asyncio.sleep(0.002)
        with pytest.raises(dspex.PoisonCall) as caught:
            await adapter.agenerate("poison")
        answers = await asyncio.gather(*innocents)
        await back_to(runtime, 2)
    assert [answer.response for answer in answers] == [f"q{number}" for number in range(63)]
    assert not caught.value.retryable


async def test_a_program_that_dies_and_may_not_be_repeated_is_lost(provider: Provider) -> None:
    """If this failed, a program with side effects would be run a second time after it had crashed."""
    async with opened(provider) as runtime:
        before = pids(runtime)
        with pytest.raises(dspex.WorkerLost):
            await runtime.adapter().agenerate("?", module=f"{PROGRAMS}:Die")
        assert pids(runtime) == before
