"""Workers that die before they are ready, and zygotes that die at the worst moment."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

import dspex
from tests.chaos.figures import back_to, ends, figures, zygote_of
from tests.processes import alive, descendants
from tests.provider import Provider, delayed, echo

pytestmark = [pytest.mark.chaos, pytest.mark.anyio]


async def test_workers_that_die_at_birth_are_told_at_once_and_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, a broken preload would hang callers, break other pools, or outlast its mending."""
    switch = tmp_path / "dies"
    switch.touch()
    monkeypatch.setenv("CHAOS_DIES", str(switch))
    pools = {
        "general": dspex.PoolOptions(workers=2),
        "broken": dspex.PoolOptions(
            workers=2, preload=["tests.chaos.dies_in_worker"], pass_env=["CHAOS_DIES"]
        ),
    }
    async with dspex.Runtime(pools=pools, wait=False) as runtime:
        started = time.monotonic()
        with pytest.raises(dspex.PoolUnhealthy) as caught:
            await runtime.pool("broken").aexecute("ping", timeout=60.0)
        print(f"told after {time.monotonic() - started:.2f} s: {caught.value.message}")
        assert "status 9" in caught.value.details["cause"]
        assert await runtime.pool("general").aexecute("ping", timeout=60.0) == "pong"
        with pytest.raises(dspex.PoolUnhealthy):
            await runtime.pool("broken").aexecute("ping", timeout=60.0)
        switch.unlink()
        await back_to(runtime, 2, "broken", guard=60.0)
        assert await runtime.pool("broken").aexecute("ping") == "pong"
    assert figures().zombies == 0


async def test_a_zygote_killed_again_and_again_under_load_costs_no_answer(provider: Provider) -> None:
    """If this failed, the end of the process that forks workers would be the end of calls, or of the pool."""
    provider.reply = lambda _: delayed(0.05, echo())
    lm = dspex.LM("openai/x", base_url=provider.base_url)
    async with dspex.Runtime(lm, pools={"general": dspex.PoolOptions(workers=2)}) as runtime:
        adapter = runtime.adapter(timeout=60.0)
        await back_to(runtime, 2)
        answered = 0
        stop = asyncio.Event()

        async def ask(number: int) -> None:
            nonlocal answered
            while not stop.is_set():
                assert (await adapter.agenerate(f"q{number}")).response == f"q{number}"
                answered += 1

        load = asyncio.gather(*(ask(number) for number in range(8)))
        for _ in range(3):
            before = answered
            zygote = zygote_of(runtime)
            family = descendants(zygote)
            os.kill(zygote, signal.SIGKILL)
            while any(alive(pid) for pid in family) or answered < before + 50:
                assert not load.done(), load
                await asyncio.sleep(0.01)
            await back_to(runtime, 2, guard=60.0)
        stop.set()
        await load
        assert runtime.stats().pools["general"].unfinished == 0
        assert set(runtime.stats().pools["general"].counters) == {"ok"}


async def test_a_zygote_killed_while_it_boots_is_started_again() -> None:
    """If this failed, a service whose start was disturbed would never answer."""
    known = set(descendants(os.getpid()))
    async with dspex.Runtime(pools={"general": dspex.PoolOptions(workers=1)}, wait=False) as runtime:
        for delay in (0.0, 0.2):
            while not (booting := set(descendants(os.getpid())) - known):
                await asyncio.sleep(0.002)
            await asyncio.sleep(delay)
            for pid in booting:
                with contextlib.suppress(psutil.NoSuchProcess):
                    psutil.Process(pid).kill()
            while any(alive(pid) for pid in booting):
                await asyncio.sleep(0.002)
        found = await ends(50, 1, lambda _: _ping(runtime))
        assert set(found) <= {"ok", "pool_unhealthy"}, found
        await back_to(runtime, 1, guard=60.0)
        assert await runtime.pool("general").aexecute("ping") == "pong"


async def _ping(runtime: dspex.Runtime) -> None:
    await asyncio.sleep(0.1)
    await runtime.pool("general").aexecute("ping", timeout=60.0)
