"""(h) Faults: how late a caller is told of a deadline, and what a kill each second costs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from bench.measure import Row, fresh, provider, rate, row, side_by_side

DEADLINE, GRACE, TRIES = 0.25, 0.5, 20
WORKERS, AT_ONCE, SECONDS = 2, 64, 10.0
# Milliseconds after the deadline; one that is stuck is first given its grace.
CANCELLABLE, STUCK = 50.0, GRACE * 1e3 + 150.0


async def _late(kind: str, base_url: str) -> float:
    """p95 of the milliseconds from a deadline to its error, one call after another."""
    import dspex

    pools = {"general": dspex.PoolOptions(workers=WORKERS, grace=GRACE)}
    settings = dspex.Settings(allow_modules=("tests.stuck",))
    late = []
    async with dspex.Runtime(
        dspex.LM("openai/x", base_url=base_url), pools=pools, settings=settings
    ) as runtime:
        adapter, pool = runtime.adapter(), runtime.pool("general")
        one: Callable[[], Awaitable[Any]]
        if kind == "provider":
            one = partial(adapter.agenerate, "?", timeout=DEADLINE)
        else:
            args = {"seconds": 3600} if kind in {"sleep", "wait"} else {}
            one = partial(pool.aexecute, kind, args, timeout=DEADLINE)
        for _ in range(TRIES):
            while [worker.state for worker in runtime.stats().pools["general"].workers] != [
                "ready"
            ] * WORKERS:
                await asyncio.sleep(0.005)
            started = time.perf_counter()
            try:
                await one()
            except dspex.PythonTimeout:
                late.append((time.perf_counter() - started - DEADLINE) * 1e3)
            else:
                raise RuntimeError(f"{kind} has ended before its deadline")
    return statistics.quantiles(late, n=20, method="inclusive")[-1]


async def _throughput(base_url: str, *, kills: bool) -> float:
    """Calls per second with enough in flight to load the workers, and no more than the machine has."""
    import dspex

    lm = dspex.LM("openai/x", base_url=base_url)
    async with dspex.Runtime(lm, pools={"general": dspex.PoolOptions(workers=WORKERS)}) as runtime:
        adapter = runtime.adapter(timeout=60.0)

        async def one(number: int) -> None:
            await adapter.agenerate(f"question {number}")

        warm = await rate(AT_ONCE * 8, AT_ONCE, one)
        killer = asyncio.create_task(_kill_each_second(runtime)) if kills else None
        found = await rate(int(warm * SECONDS), AT_ONCE, one)
        if killer is not None:
            killer.cancel()
    return found


async def _kill_each_second(runtime: Any) -> None:
    turn = 0
    while True:
        await asyncio.sleep(1.0)
        workers = runtime.stats().pools["general"].workers
        ready = [worker.pid for worker in workers if worker.state in {"ready", "busy"}]
        if ready:
            with contextlib.suppress(ProcessLookupError):
                os.kill(ready[turn % len(ready)], signal.SIGKILL)
            turn += 1


def main(what: str, base_url: str) -> float:
    """One measurement in a fresh interpreter."""
    if what in {"killed", "undisturbed"}:
        return asyncio.run(_throughput(base_url, kills=what == "killed"))
    return asyncio.run(_late(what, base_url))


def _measured(what: str, base_url: str) -> float:
    return float(fresh("bench.faults", what=what, base_url=base_url))


def rows(rounds: int) -> list[Row]:
    """The lateness of each way to be stuck, then throughput under kills."""
    found = []
    names = {
        "provider": ("a provider that hangs", CANCELLABLE),
        "wait": ("a wait on the loop", CANCELLABLE),
        "sleep": ("a thread that sleeps", STUCK),
        "spin": ("a loop that is blocked", STUCK),
        "hold_gil": ("C code with the GIL", STUCK),
    }
    with provider(3600.0) as base:
        for kind, (what, bar) in names.items():
            late = statistics.median(_measured(kind, base) for _ in range(rounds))
            found.append(Row(f"late after a deadline, p95: {what}", late, bar, "ms", late / bar, "<= 1"))
    with provider(0.075) as base:
        runs = side_by_side(
            rounds, {what: partial(_measured, what, base) for what in ("killed", "undisturbed")}
        )
    name = f"75 ms, {AT_ONCE} in flight, a worker of {WORKERS} killed each second / undisturbed"
    found.append(row(name, runs["killed"], runs["undisturbed"], "/s", ">= 0.8"))
    return found
