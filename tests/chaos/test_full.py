"""A queue that is full, and callers that leave at each stage of a call."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import dspex
from tests.chaos.figures import back_to, ends, pids
from tests.processes import lines
from tests.provider import Provider, delayed, echo, hanging

pytestmark = [pytest.mark.chaos, pytest.mark.anyio]

SETTINGS = dspex.Settings(allow_modules=("tests.stuck",))


@asynccontextmanager
async def opened(base_url: str = "http://127.0.0.1:9/v1", **options: Any) -> AsyncIterator[dspex.Runtime]:
    """One worker; the second LM lets one request through at a time."""
    lms = {"one": dspex.LM("openai/y", base_url=base_url, limits=dspex.Limits(in_flight=1))}
    pools = {"general": dspex.PoolOptions(workers=1, grace=0.3, **options)}
    lm = dspex.LM("openai/x", base_url=base_url)
    async with dspex.Runtime(lm, lms=lms, pools=pools, settings=SETTINGS) as runtime:
        await back_to(runtime, 1)
        yield runtime


async def until(condition: Callable[[], object]) -> None:
    """Wait on the loop for something to become true."""
    for _ in range(4000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen in time")


async def leave(task: asyncio.Task[Any]) -> None:
    """The caller goes away."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def all_is_well(runtime: dspex.Runtime) -> None:
    """Nothing runs or waits any more, the next call is answered, and the counters add up."""
    await until(lambda: not runtime.stats().pools["general"].unfinished)
    await back_to(runtime, 1)
    # A worker that was told to stop a call holds it until it says that it has.
    await until(lambda: not any(worker.in_flight for worker in runtime.stats().pools["general"].workers))
    assert await runtime.pool("general").aexecute("ping", timeout=30.0) == "pong"
    stats = runtime.stats().pools["general"]
    assert (stats.queued, [worker.in_flight for worker in stats.workers]) == (0, [0])
    assert stats.counters["cancelled"] >= 1


async def test_a_flood_is_refused_beyond_the_queue_and_the_rest_is_answered(provider: Provider) -> None:
    """If this failed, a flood would fill memory, hang its callers, or fail those that were taken."""
    provider.reply = lambda _: delayed(0.05, echo())
    async with opened(provider.base_url, slots=8, max_queue=50) as runtime:
        adapter = runtime.adapter(timeout=60.0)
        waits: list[float | None] = []

        async def ask(number: int) -> None:
            try:
                await adapter.agenerate(f"q{number}")
            except dspex.PoolSaturated as error:
                waits.append(error.retry_after)
                raise

        found = await ends(600, 600, ask)
        assert found == Counter(ok=58, pool_saturated=542)
        assert all(wait is not None and wait > 0 for wait in waits)
        assert runtime.stats().pools["general"].counters == dict(found)
        assert (await adapter.agenerate("after")).response == "after"


async def test_leaving_while_queued_for_a_slot(tmp_path: Path) -> None:
    """If this failed, callers that have left would fill the queue, and their work be done all the same."""
    mark, late = tmp_path / "mark", tmp_path / "late"
    async with opened(slots=1) as runtime:
        pool = runtime.pool("general")
        running = asyncio.create_task(pool.aexecute("wait", {"seconds": 0.5, "mark": str(mark)}))
        await until(lambda: lines(mark))
        queued = asyncio.create_task(pool.aexecute("wait", {"seconds": 0, "mark": str(late)}))
        await until(lambda: runtime.stats().pools["general"].queued)
        await leave(queued)
        assert await running == "waited"
        await all_is_well(runtime)
    assert not lines(late)


async def test_leaving_while_queued_for_a_permit(provider: Provider) -> None:
    """If this failed, a permit would go to a caller that has left, and never come back."""
    async with opened(provider.base_url) as runtime:
        adapter = runtime.adapter(lm="one", timeout=60.0)
        provider.reply = lambda _: hanging()
        first = asyncio.create_task(adapter.agenerate("first"))
        await until(lambda: provider.in_flight == 1)
        second = asyncio.create_task(adapter.agenerate("second"))
        await until(lambda: runtime.stats().pools["general"].queued)
        await leave(second)
        await leave(first)
        provider.reply = lambda _: echo()
        assert (await adapter.agenerate("third")).response == "third"
        await all_is_well(runtime)


async def test_leaving_while_it_is_being_started(provider: Provider) -> None:
    """If this failed, the moment between a call and its arrival at the worker would be a hole."""
    async with opened(provider.base_url) as runtime:
        adapter = runtime.adapter(timeout=60.0)
        for turns in range(40):
            task = asyncio.create_task(adapter.agenerate(f"q{turns}"))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            answer = (await asyncio.gather(task, return_exceptions=True))[0]
            if not isinstance(answer, asyncio.CancelledError):
                assert isinstance(answer, dspex.Response)
                assert answer.response == f"q{turns}"
        await all_is_well(runtime)


@pytest.mark.parametrize(
    ("command", "dies"),
    [("wait", False), ("sleep", True), ("spin", True), ("swallow", True), ("hold_gil", True)],
)
async def test_leaving_while_it_runs(tmp_path: Path, command: str, dies: bool) -> None:
    """If this failed, work on the loop, in a thread or stuck would go on for a caller that has left."""
    mark = tmp_path / "mark"
    seconds = {"seconds": 3600} if command in {"wait", "sleep"} else {}
    async with opened() as runtime:
        before = pids(runtime)
        args = {"mark": str(mark), **seconds}
        task = asyncio.create_task(runtime.pool("general").aexecute(command, args, timeout=None))
        await until(lambda: lines(mark))
        await leave(task)
        await until(lambda: not runtime.stats().pools["general"].unfinished)
        await until(lambda: (pids(runtime) != before) is dies)
        await all_is_well(runtime)


async def test_leaving_while_the_worker_is_gone(tmp_path: Path) -> None:
    """If this failed, a call that waits to be run again would be run for a caller that has left."""
    mark = tmp_path / "mark"
    async with opened() as runtime:
        args = {"seconds": 3600, "mark": str(mark)}
        task = asyncio.create_task(runtime.pool("general").aexecute("wait", args, timeout=None))
        await until(lambda: lines(mark))
        os.kill(pids(runtime)[0], signal.SIGKILL)
        task.cancel()
        assert isinstance(
            (await asyncio.gather(task, return_exceptions=True))[0],
            asyncio.CancelledError | dspex.WorkerLost,
        )
        await until(lambda: not runtime.stats().pools["general"].unfinished)
        await back_to(runtime, 1)
        assert len(lines(mark)) == 1
