"""A call that does not stop costs its neighbours nothing while its worker's event loop turns."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import dspex
from dspex import WorkerDraining, WorkerGone
from tests.processes import alive, lines, until

SETTINGS = dspex.Settings(allow_modules=("tests.stuck",))


@pytest.fixture(scope="module")
def runtime() -> Iterator[dspex.Runtime]:
    pools = {
        "general": dspex.PoolOptions(workers=1, slots=8, grace=0.2, drain_limit=30.0),
        "short": dspex.PoolOptions(workers=1, slots=8, grace=0.2, drain_limit=0.3),
    }
    with dspex.Runtime(pools=pools, settings=SETTINGS) as opened:
        yield opened


def states(runtime: dspex.Runtime, pool: str) -> list[str]:
    return sorted(worker.state for worker in runtime.stats().pools[pool].workers)


def test_neighbours_of_a_stuck_thread_end_before_the_kill(runtime: dspex.Runtime, tmp_path: Path) -> None:
    """If this failed, a stuck tool of one caller would cost others a command that cannot run again."""
    mark, stuck = tmp_path / "mark", tmp_path / "stuck"
    events: list[dspex.Event] = []
    stop = runtime.on(dspex.WorkerEvent, events.append)
    pool = runtime.pool("general")
    with ThreadPoolExecutor(2) as executor:
        neighbour = executor.submit(pool.execute, "wait", {"seconds": 1.5, "mark": str(mark)})
        until(lambda: lines(mark))
        with pytest.raises(dspex.PythonTimeout) as caught:
            pool.execute("sleep", {"seconds": 3600, "mark": str(stuck)}, timeout=0.2)
        assert caught.value.details["killed"] is True
        pid = int(lines(stuck)[0])
        assert not neighbour.done(), "the error did not wait for the neighbour"
        until(lambda: states(runtime, "general") == ["draining", "ready"])
        assert pool.execute("ping") == "pong", "another worker takes calls meanwhile"
        assert neighbour.result(20) == "waited"
    until(lambda: not alive(pid))
    until(lambda: states(runtime, "general") == ["ready"])
    # Events have a thread of their own, and arrive a moment after what they tell of.
    until(lambda: any(isinstance(event, WorkerGone) for event in events))
    stop()
    seen = [event for event in events if isinstance(event, WorkerDraining | WorkerGone)]
    assert [(type(event), event.cause) for event in seen] == [
        (WorkerDraining, "deadline"),
        (WorkerGone, "deadline"),
    ]


def test_a_drain_has_an_end(runtime: dspex.Runtime, tmp_path: Path) -> None:
    """If this failed, a long neighbour would keep stuck work alive for as long as it likes."""
    mark, stuck = tmp_path / "mark", tmp_path / "stuck"
    pool = runtime.pool("short")
    with ThreadPoolExecutor(2) as executor:
        neighbour = executor.submit(pool.execute, "wait", {"seconds": 3600, "mark": str(mark)})
        until(lambda: lines(mark))
        with pytest.raises(dspex.PythonTimeout):
            pool.execute("sleep", {"seconds": 3600, "mark": str(stuck)}, timeout=0.2)
        error = neighbour.exception(20)
    assert isinstance(error, dspex.WorkerLost)
    assert "did not stop at its deadline" in error.message
    assert not alive(int(lines(stuck)[0]))


def test_a_second_stuck_call_ends_the_drain(runtime: dspex.Runtime, tmp_path: Path) -> None:
    """If this failed, two stuck calls would wait for each other until the drain's limit."""
    marks = [tmp_path / "one", tmp_path / "two"]
    pool = runtime.pool("general")
    with ThreadPoolExecutor(2) as executor:
        calls = [
            executor.submit(pool.execute, "sleep", {"seconds": 3600, "mark": str(mark)}, timeout=timeout)
            for mark, timeout in zip(marks, (0.4, 0.8), strict=True)
        ]
        assert all(isinstance(call.exception(20), dspex.PythonTimeout) for call in calls)
    until(lambda: not alive(int(lines(marks[0])[0])))
    until(lambda: states(runtime, "general") == ["ready"])


def test_a_stopped_worker_is_killed_at_a_deadline(runtime: dspex.Runtime, tmp_path: Path) -> None:
    """If this failed, a worker that was stopped (SIGSTOP, a debugger) would hold its calls for ever."""
    mark = tmp_path / "mark"
    pool = runtime.pool("general")
    with ThreadPoolExecutor(1) as executor:
        call = executor.submit(pool.execute, "wait", {"seconds": 3600, "mark": str(mark)}, timeout=1.0)
        until(lambda: lines(mark))
        pid = int(lines(mark)[0])
        os.kill(pid, signal.SIGSTOP)
        error = call.exception(20)
    assert isinstance(error, dspex.PythonTimeout)
    assert error.details["killed"] is True
    until(lambda: not alive(pid))


def test_an_idle_worker_that_is_stopped_gets_no_calls_and_is_replaced(runtime: dspex.Runtime) -> None:
    """If this failed, every call that is given to a frozen worker would time out."""
    (pid,) = [worker.pid for worker in runtime.stats().pools["short"].workers if worker.state == "ready"]
    os.kill(pid, signal.SIGSTOP)
    until(lambda: not alive(pid), 30)
    until(lambda: states(runtime, "short") == ["ready"])
    assert runtime.stats().pools["short"].restarts["blocked"] == 1
    assert runtime.pool("short").execute("ping") == "pong"


def test_a_call_without_a_deadline_runs_on(runtime: dspex.Runtime, tmp_path: Path) -> None:
    """If this failed, `timeout=None` would not be a choice."""
    started = time.monotonic()
    assert runtime.pool("short").execute("wait", {"seconds": 1.5}, timeout=None) == "waited"
    assert time.monotonic() - started >= 1.5


@pytest.mark.anyio
async def test_calls_that_are_cancelled_at_once_harm_nobody(runtime: dspex.Runtime) -> None:
    """If this failed, a client that gives up early would cost a worker, and its neighbours their answers."""
    pool = runtime.pool("general")
    neighbour = asyncio.create_task(pool.aexecute("wait", {"seconds": 2.0}))
    before = dict(runtime.stats().pools["general"].restarts)
    for _ in range(100):
        call = asyncio.create_task(pool.aexecute("wait", {"seconds": 0.005}))
        await asyncio.sleep(0.001)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    assert await neighbour == "waited"
    assert runtime.stats().pools["general"].restarts == before
