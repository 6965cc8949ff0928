"""Budgets while workers are killed: what was on its way counts, and a provider's bill stays within."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter

import pytest

import dspex
from tests.channels import until
from tests.provider import Provider, Reply, Request, delayed, text

pytestmark = [pytest.mark.chaos, pytest.mark.anyio]

CALLS, KILLS = 800, 25
ANSWER = "[[ ## answer ## ]]\n" + "word " * 90 + "\n\n[[ ## completed ## ]]"
LIMIT, MOST = 60_000, 120


async def test_the_bill_stays_within_a_budget_while_workers_are_killed() -> None:
    """If this failed, each crash would make requests free, or take a part of the budget with it for ever."""
    bill = 0

    def reply(request: Request) -> Reply:
        nonlocal bill
        bill += request.prompt.words + len(ANSWER.split())
        return delayed(0.03, text(ANSWER))

    kills = 0
    settings = dspex.Settings(file=False, budgets={"day": dspex.Budget(tokens=LIMIT)})
    pools = {"general": dspex.PoolOptions(workers=3, max_reruns=5)}
    with Provider(reply, record=False) as provider:
        lm = dspex.LM("openai/x", api_key="k", base_url=provider.base_url, max_tokens=MOST)
        async with dspex.Runtime(lm, pools=pools, settings=settings) as runtime:
            adapter, slots = runtime.adapter(timeout=120), asyncio.Semaphore(20)
            found: Counter[str] = Counter()

            async def ask(number: int) -> None:
                nonlocal kills
                async with slots:
                    if number % (CALLS // (2 * KILLS)) == 0 and kills < KILLS:
                        pids = [worker.pid for worker in runtime.stats().pools["general"].workers]
                        if pids:
                            kills += 1
                            with contextlib.suppress(ProcessLookupError):
                                os.kill(random.choice(pids), signal.SIGKILL)
                    try:
                        await adapter.agenerate(f"q{number}", signature="question -> answer")
                    except (dspex.BudgetExceeded, dspex.WorkerLost, dspex.PoisonCall) as error:
                        found[error.code] += 1
                    else:
                        found["ok"] += 1

            await asyncio.gather(*(ask(number) for number in range(CALLS)))
            [day] = runtime.stats().budgets
            await until(lambda: runtime.stats().budgets[0].reserved_tokens == 0)
    print(f"{kills} kills, {dict(found)}: a bill of {bill}, {day.tokens} counted, of {LIMIT}")
    assert kills == KILLS
    assert found["budget_exceeded"] > 0
    assert found["ok"] > 0
    assert LIMIT / 3 < bill <= LIMIT + MOST
    assert bill <= day.tokens, "what nobody heard the end of counts as it was reserved"
