"""The gentler end of a worker: while its loop turns, its other calls end well before it is killed."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

import dspex
from tests.chaos.figures import back_to, pids
from tests.chaos.test_stuck import neighbours, opened, unharmed
from tests.processes import alive, lines, until
from tests.provider import Provider

pytestmark = [pytest.mark.chaos, pytest.mark.anyio]


@pytest.mark.parametrize("command", ["sleep", "swallow", "grandchild"])
async def test_neighbours_of_a_stuck_thread_end_in_their_first_attempt(
    provider: Provider, tmp_path: Path, command: str
) -> None:
    """If this failed, one stuck thread would have other callers' questions asked and paid for twice."""
    mark = tmp_path / "mark"
    seconds = {"seconds": 3600} if command == "sleep" else {}
    args = {"pidfile": str(mark)} if command == "grandchild" else {"mark": str(mark), **seconds}
    async with opened(provider) as runtime:
        tasks = await neighbours(runtime, provider)
        with pytest.raises(dspex.PythonTimeout):
            await runtime.pool("general").aexecute(command, args, timeout=0.2)
        await unharmed(tasks, 1)
        await back_to(runtime, 2)
        until(lambda: not alive(int(lines(mark)[0])))


async def test_a_call_that_goes_away_while_its_worker_drains_is_gone(
    provider: Provider, tmp_path: Path
) -> None:
    """If this failed, a worker would be kept for a caller who has left."""
    mark = tmp_path / "mark"
    async with opened(provider) as runtime:
        tasks = await neighbours(runtime, provider)
        args = {"seconds": 3600, "mark": str(mark)}
        with pytest.raises(dspex.PythonTimeout):
            await runtime.pool("general").aexecute("sleep", args, timeout=0.1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await back_to(runtime, 2)
        until(lambda: not alive(int(lines(mark)[0])))
        stats = runtime.stats().pools["general"]
        assert (stats.unfinished, stats.counters["cancelled"]) == (0, len(tasks))


async def test_a_stopped_worker_is_found_before_any_deadline(provider: Provider) -> None:
    """If this failed, calls without a deadline would wait for ever for a worker that has stopped."""
    async with opened(provider) as runtime:
        tasks = await neighbours(runtime, provider)
        victim = pids(runtime)[0]
        os.kill(victim, signal.SIGSTOP)
        await unharmed(tasks, 2)
        await back_to(runtime, 2)
        until(lambda: not alive(victim))
        assert runtime.stats().pools["general"].restarts["blocked"] == 1
