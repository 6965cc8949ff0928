"""A runtime with calls that run and one that waits, in a process that is about to end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from pathlib import Path

import dspex
from tests.processes import descendants, lines, until

SETTINGS = dspex.Settings(allow_modules=("tests.stuck",))
POOLS = {
    "general": dspex.PoolOptions(workers=1, slots=1),
    "isolated": dspex.PoolOptions(min=1, max=2),
}
_TAKEN = ("general", "general", "isolated")


def runtime() -> dspex.Runtime:
    """One that has yet to be opened."""
    return dspex.Runtime(pools=POOLS, settings=SETTINGS)


def _taken(opened: dspex.Runtime, mark: str) -> bool:
    return len(lines(Path(mark))) == 2 and opened.stats().pools["general"].queued == 1


def occupy(opened: dspex.Runtime, mark: str, *, seconds: float = 3600, daemon: bool = True) -> None:
    """Have two calls run, one of them alone in its worker, and one wait, each on a thread of its own."""

    def call(pool: str) -> None:
        with contextlib.suppress(dspex.PoolClosed):
            opened.pool(pool).execute("wait", {"seconds": seconds, "mark": mark}, timeout=None)

    for pool in _TAKEN:
        threading.Thread(target=call, args=(pool,), daemon=daemon).start()
    until(lambda: _taken(opened, mark), 30)


async def aoccupy(opened: dspex.Runtime, mark: str) -> list[asyncio.Task[None]]:
    """The same as tasks."""

    async def call(pool: str) -> None:
        with contextlib.suppress(dspex.PoolClosed):
            await opened.pool(pool).aexecute("wait", {"seconds": 3600, "mark": mark}, timeout=None)

    calls = [asyncio.create_task(call(pool)) for pool in _TAKEN]
    while not _taken(opened, mark):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return calls


def tell() -> None:
    """Print what this process has started."""
    print("family", *descendants(os.getpid()), flush=True)  # noqa: T201
