"""What a runtime weighs and whom it has, for tests that look for growth and for loss."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import psutil

import dspex
from tests.processes import is_database

MB = 1e6


@dataclass(frozen=True)
class Figures:
    """One process, as the kernel sees it.

    Attributes:
        descriptors: Open ones.
        threads: Its threads.
        rss: Resident memory in megabytes.
        children: Processes that it has started, directly or not, zombies included, and the tests' own
            database left out.
        zombies: Those of them that are dead and not buried.
    """

    descriptors: int
    threads: int
    rss: float
    children: int
    zombies: int


def figures(pid: int | None = None) -> Figures:
    """Those of a process; of this one when none is named."""
    process = psutil.Process(pid or os.getpid())
    children = [child for child in process.children(recursive=True) if not is_database(child)]
    return Figures(
        process.num_fds(),
        process.num_threads(),
        process.memory_info().rss / MB,
        len(children),
        sum(_is_zombie(child) for child in children),
    )


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def at_work(runtime: dspex.Runtime) -> list[int]:
    """Of the workers that run calls, in whatever pool: one that was suspected runs alone."""
    pools = runtime.stats().pools.values()
    return [worker.pid for pool in pools for worker in pool.workers if worker.in_flight]


def pids(runtime: dspex.Runtime, pool: str = "general") -> list[int]:
    """Of the workers that are ready for calls, or at work."""
    workers = runtime.stats().pools[pool].workers
    return [worker.pid for worker in workers if worker.state in {"ready", "busy"}]


def zygote_of(runtime: dspex.Runtime, pool: str = "general") -> int:
    """The process that forks the workers of a pool."""
    return int(psutil.Process(pids(runtime, pool)[0]).ppid())


def complete(runtime: dspex.Runtime, size: int, pool: str = "general") -> bool:
    """Whether a pool has as many workers as it should, all ready, and none beside them."""
    return [worker.state for worker in runtime.stats().pools[pool].workers] == ["ready"] * size


async def back_to(runtime: dspex.Runtime, size: int, pool: str = "general", guard: float = 20.0) -> float:
    """Wait until a pool is complete; how many seconds that took."""
    started = time.monotonic()
    while not complete(runtime, size, pool):
        assert time.monotonic() - started < guard, runtime.stats().pools[pool]
        await asyncio.sleep(0.005)
    return time.monotonic() - started


async def alone(runtime: dspex.Runtime, pool: str = "general", guard: float = 30.0) -> None:
    """Wait until no other pool has workers: those in which suspects ran alone go when nobody needs them."""
    started = time.monotonic()
    while any(stats.workers for name, stats in runtime.stats().pools.items() if name != pool):
        assert time.monotonic() - started < guard, runtime.stats().pools
        await asyncio.sleep(0.01)


async def ends(count: int, at_once: int, one: Callable[[int], Awaitable[None]]) -> Counter[str]:
    """Make so many calls with so many in flight: how each ended, ``ok`` or the code of its error."""
    found: Counter[str] = Counter()
    numbers = iter(range(count))

    async def caller() -> None:
        for number in numbers:
            try:
                await one(number)
            except dspex.DspexError as error:
                found[error.code] += 1
            else:
                found["ok"] += 1

    await asyncio.gather(*(caller() for _ in range(at_once)))
    return found
