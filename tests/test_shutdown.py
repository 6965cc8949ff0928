"""Closing that lets calls end first, and who may close when."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import dspex
from tests.processes import alive, descendants, lines, until

SETTINGS = dspex.Settings(allow_modules=("tests.stuck",))


def opened() -> dspex.Runtime:
    one = {"general": dspex.PoolOptions(workers=1, slots=1, grace=0.3)}
    return dspex.Runtime(pools=one, settings=SETTINGS).open()


def begin(threads: ThreadPoolExecutor, runtime: dspex.Runtime, mark: Path, seconds: float) -> Any:
    """A call that runs."""
    arguments = {"seconds": seconds, "mark": str(mark)}
    call = threads.submit(runtime.pool().execute, "wait", arguments, timeout=None)
    until(lambda: lines(mark))
    return call


def draining(runtime: dspex.Runtime) -> None:
    """Wait until it takes no more calls."""
    until(lambda: runtime.core._draining is not None)


def test_draining_lets_running_and_queued_calls_end(tmp_path: Path) -> None:
    """If this failed, each deployment would cost the calls of its moment."""
    runtime = opened()
    family = descendants(os.getpid())
    with ThreadPoolExecutor() as threads:
        running = begin(threads, runtime, tmp_path / "mark", 0.5)
        queued = threads.submit(runtime.pool().execute, "ping", timeout=None)
        until(lambda: runtime.stats().pools["general"].queued == 1)
        closing = threads.submit(runtime.close, drain=True, timeout=None)
        draining(runtime)
        with pytest.raises(dspex.PoolClosed):
            runtime.pool().execute("ping")
        closing.result(30)
        running.result(30)
        assert queued.result(30) == "pong"
    assert not any(alive(pid) for pid in family)


def test_calls_that_are_left_when_draining_times_out_are_told(tmp_path: Path) -> None:
    """If this failed, one long call would hold up a deployment for ever."""
    runtime = opened()
    with ThreadPoolExecutor() as threads:
        call = begin(threads, runtime, tmp_path / "mark", 3600)
        runtime.close(drain=True, timeout=0.1)
        with pytest.raises(dspex.PoolClosed):
            call.result(30)


def test_closing_once_more_ends_a_draining(tmp_path: Path) -> None:
    """If this failed, a second Ctrl-C would wait as long as the first."""
    runtime = opened()
    with ThreadPoolExecutor() as threads:
        call = begin(threads, runtime, tmp_path / "mark", 3600)
        first = threads.submit(runtime.close, drain=True, timeout=None)
        draining(runtime)
        runtime.close()
        first.result(30)
        with pytest.raises(dspex.PoolClosed):
            call.result(30)


@pytest.mark.parametrize("drain", [True, False])
def test_many_threads_close_at_once(drain: bool) -> None:
    """If this failed, a signal handler and a `with` would fail each other."""
    runtime = opened()
    together = threading.Barrier(8)

    def close() -> None:
        together.wait()
        runtime.close(drain=drain)

    with ThreadPoolExecutor(8) as threads:
        for closing in [threads.submit(close) for _ in range(8)]:
            closing.result(30)
    runtime.close(drain=True)


@pytest.mark.anyio
async def test_a_cancelled_draining_goes_on(tmp_path: Path) -> None:
    """If this failed, a server that gives up waiting would leave workers."""
    one = {"general": dspex.PoolOptions(workers=1)}
    runtime = await dspex.Runtime(pools=one, settings=SETTINGS).aopen()
    family = descendants(os.getpid())
    mark = tmp_path / "mark"
    waits = runtime.pool().aexecute("wait", {"seconds": 0.5, "mark": str(mark)}, timeout=None)
    call = asyncio.create_task(waits)
    while not lines(mark):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(runtime.aclose(drain=True), 0.05)
    assert not call.done()
    await call
    while any(alive(pid) for pid in family):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await runtime.aclose()


def test_leaving_by_an_exception_does_not_wait_for_calls(tmp_path: Path) -> None:
    """If this failed, a program that failed would end only after its longest call."""
    with ThreadPoolExecutor() as threads:
        with pytest.raises(KeyError), opened_in_with() as runtime:  # noqa: PT012
            call = begin(threads, runtime, tmp_path / "mark", 3600)
            raise KeyError
        with pytest.raises(dspex.PoolClosed):
            call.result(30)


def opened_in_with() -> dspex.Runtime:
    return dspex.Runtime(pools={"general": dspex.PoolOptions(workers=1)}, settings=SETTINGS)


def test_closing_while_it_opens() -> None:
    """If this failed, a service that is stopped while it starts would hang or be left half open."""
    runtime = dspex.Runtime(pools={"general": dspex.PoolOptions(workers=1)})
    with ThreadPoolExecutor() as threads:
        opening = threads.submit(runtime.open)
        until(lambda: list(runtime.core._pools))
        runtime.close(drain=True)
        with pytest.raises(dspex.PoolClosed):
            opening.result(30)
