"""Tenants whose workers are killed all the time: nobody gets another's answer, or has his key used."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from typing import Literal

import pytest

import dspex
from tests.customers import NAMES, customers

pytestmark = [pytest.mark.chaos, pytest.mark.anyio]

CALLS, AT_ONCE, KILLS = 900, 40, 40


async def killing(runtime: dspex.Runtime, killed: list[int], asked: asyncio.Semaphore) -> None:
    """SIGKILL some worker each time that some more calls have been made, until cancelled."""
    while True:
        for _ in range(CALLS * len(NAMES) // KILLS):
            await asyncio.wait_for(asked.acquire(), 120)
        pids = [worker.pid for pool in runtime.stats().pools.values() for worker in pool.workers]
        if pids:
            killed.append(random.choice(pids))
            with contextlib.suppress(ProcessLookupError):
                os.kill(killed[-1], signal.SIGKILL)


@pytest.mark.parametrize("isolation", ["shared", "tenant"])
async def test_tenants_stay_apart_while_workers_are_killed(isolation: Literal["shared", "tenant"]) -> None:
    """If this failed, a crash would be how one customer gets another's answer, or his bill."""
    pools = {"general": dspex.PoolOptions(workers=2, isolation=isolation)}
    found: Counter[str] = Counter()
    killed: list[int] = []
    asked, slots = asyncio.Semaphore(0), asyncio.Semaphore(AT_ONCE)
    with customers(attempts=3) as tenants:
        async with dspex.Runtime(pools=pools) as runtime:

            async def ask(name: str, number: int) -> None:
                async with slots:
                    asked.release()
                    try:
                        responses = await tenants.ask(runtime, name, number)
                    except (dspex.WorkerLost, dspex.PoisonCall) as lost:
                        found[lost.code] += 1
                    else:
                        found["ok"] += 1
                        found["cached"] += sum(response.cached for response in responses)

            storm = asyncio.create_task(killing(runtime, killed, asked))
            await asyncio.gather(*(ask(name, number) for number in range(CALLS) for name in NAMES))
            storm.cancel()
            stats = runtime.stats()
        print(f"{isolation}: {len(killed)} kills, {dict(found)}, {dict(tenants.requests)}")
    assert tenants.wrong == []
    assert len(killed) >= KILLS // 2
    assert found["ok"] >= 0.9 * CALLS * len(NAMES)
    assert found["cached"] > 0
    assert set(tenants.requests) == set(NAMES)
    assert all(pool.unfinished == 0 and pool.queued == 0 for pool in stats.pools.values())
