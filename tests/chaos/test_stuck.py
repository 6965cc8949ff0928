"""Each way of being stuck: the call ends at its deadline, and its neighbours get their answers."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import dspex
from tests.chaos.figures import back_to, pids
from tests.processes import alive, lines, until
from tests.provider import Provider, Request, delayed, echo, hanging

pytestmark = [pytest.mark.chaos, pytest.mark.anyio]

GRACE, NEIGHBOURS = 0.3, 16
SETTINGS = dspex.Settings(allow_modules=("tests.stuck", "tests.chaos.commands"))


@asynccontextmanager
async def opened(provider: Provider) -> AsyncIterator[dspex.Runtime]:
    """Two workers that answer."""
    lm = dspex.LM("openai/x", base_url=provider.base_url)
    pools = {"general": dspex.PoolOptions(workers=2, grace=GRACE)}
    async with dspex.Runtime(lm, pools=pools, settings=SETTINGS) as runtime:
        await back_to(runtime, 2)
        yield runtime


async def neighbours(runtime: dspex.Runtime, provider: Provider) -> list[asyncio.Task[Any]]:
    """Questions that are asked and not answered yet when the stuck call begins."""
    provider.reply = lambda _: delayed(1.0, echo())
    adapter = runtime.adapter(timeout=60.0)
    tasks = [asyncio.create_task(adapter.agenerate(f"n{n}")) for n in range(NEIGHBOURS)]
    while provider.in_flight < NEIGHBOURS:
        await asyncio.sleep(0.002)
    return tasks


async def unharmed(tasks: list[asyncio.Task[Any]], attempts: int) -> None:
    """Each neighbour got its own answer, in at most so many attempts."""
    answers = await asyncio.gather(*tasks)
    assert [answer.response for answer in answers] == [f"n{n}" for n in range(NEIGHBOURS)]
    assert max(answer.attempts for answer in answers) <= attempts


@pytest.mark.parametrize("command", ["sleep", "spin", "hold_gil", "swallow", "chaos.child", "grandchild"])
async def test_a_stuck_command_ends_and_its_neighbours_are_answered(
    provider: Provider, tmp_path: Path, command: str
) -> None:
    """If this failed, one caller's stuck work would run on, or cost other callers their answers."""
    mark = tmp_path / "mark"
    args: dict[str, Any] = {"mark": str(mark)}
    if command == "sleep":
        args |= {"seconds": 3600}
    if command == "grandchild":
        args = {"pidfile": str(mark), "setsid": True}
    async with opened(provider) as runtime:
        before = pids(runtime)
        tasks = await neighbours(runtime, provider)
        started = time.monotonic()
        with pytest.raises(dspex.PythonTimeout) as caught:
            await runtime.pool("general").aexecute(command, args, timeout=0.4)
        late = time.monotonic() - started - 0.4
        # Where the loop had stopped they were killed with it; where it had not they may have ended in time.
        await unharmed(tasks, 2)
        await back_to(runtime, 2)
        assert len(set(before) & set(pids(runtime))) == 1, "one worker was killed, and no more"
        # What left its worker's group is looked for once the worker is dead, and not waited for.
        until(lambda: not any(map(alive, map(int, lines(mark)))))
        assert runtime.stats().pools["general"].unfinished == 0
    print(f"{command}: told {late * 1e3:.0f} ms after the deadline, grace {GRACE * 1e3:.0f} ms")
    details = caught.value.details
    assert (details["phase"], details["killed"]) == ("running", True)
    assert details["elapsed"] >= 0.4


async def test_a_hanging_provider_costs_no_worker(provider: Provider) -> None:
    """If this failed, a provider that never answers would have workers killed under innocent calls."""
    async with opened(provider) as runtime:
        before = pids(runtime)
        tasks = await neighbours(runtime, provider)
        provider.reply = lambda _: hanging()
        with pytest.raises(dspex.PythonTimeout) as caught:
            await runtime.adapter().agenerate("?", timeout=0.4)
        await unharmed(tasks, 1)
        assert pids(runtime) == before
    assert (caught.value.details["phase"], caught.value.details["killed"]) == ("running", False)


async def test_a_worker_that_is_stopped_is_killed_at_the_deadline(provider: Provider) -> None:
    """If this failed, a worker that was stopped, or swaps, would hold its calls past any deadline."""
    asked: set[str] = set()

    def first_is_late(request: Request) -> Any:
        """Each question is answered late, and at once when it is asked again."""
        question = str(request.body["messages"][-1]["content"])
        again = question in asked
        asked.add(question)
        return echo() if again else delayed(1.5, echo())

    async with opened(provider) as runtime:
        provider.reply = first_is_late
        adapter = runtime.adapter(timeout=60.0)
        tasks = [asyncio.create_task(adapter.agenerate(f"n{n}")) for n in range(NEIGHBOURS)]
        while provider.in_flight < NEIGHBOURS:
            await asyncio.sleep(0.002)
        victim = pids(runtime)[0]
        os.kill(victim, signal.SIGSTOP)
        doomed = [runtime.pool("general").aexecute("wait", {"seconds": 3600}, timeout=0.4) for _ in range(2)]
        errors = await asyncio.gather(*doomed, return_exceptions=True)
        assert all(isinstance(error, dspex.PythonTimeout) for error in errors)
        await unharmed(tasks, 2)
        until(lambda: not alive(victim))
        await back_to(runtime, 2)
