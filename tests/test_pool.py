"""What a pool promises: every call has one end, a deadline stops the work, a lost worker is replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import dspex
from tests.processes import alive, lines, until
from tests.provider import Provider, Reply, Request, delayed, echo, hanging

SETTINGS = dspex.Settings(
    allow_modules=("tests.stuck",), max_payload=8 * 1024 * 1024, max_result=8 * 1024 * 1024
)


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


@pytest.fixture(scope="module")
def runtime(provider: Provider) -> Iterator[dspex.Runtime]:
    lm = dspex.LM("openai/x", base_url=provider.base_url)
    pools = {
        "general": dspex.PoolOptions(workers=2, slots=8, grace=0.3),
        "narrow": dspex.PoolOptions(workers=1, slots=1, max_queue=2, grace=0.3),
        "patient": dspex.PoolOptions(workers=1, slots=1, queue_timeout=0.2),
    }
    with dspex.Runtime(lm, pools=pools, settings=SETTINGS) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _restore(provider: Provider) -> Iterator[None]:
    provider.reply = lambda _: echo()
    yield
    provider.reply = lambda _: echo()


def pids(runtime: dspex.Runtime, pool: str = "general") -> list[int]:
    return [worker.pid for worker in runtime.stats().pools[pool].workers if worker.state != "stopping"]


def healthy(runtime: dspex.Runtime, pool: str, count: int) -> bool:
    workers = runtime.stats().pools[pool].workers
    return [worker.state for worker in workers] == ["ready"] * count


def in_background(runtime: dspex.Runtime, count: int, command: str, **args: Any) -> list[Any]:
    executor = ThreadPoolExecutor(count)
    pool = runtime.pool(args.pop("pool", "general"))
    timeout = args.pop("timeout", 30.0)
    found = [executor.submit(pool.execute, command, args, timeout=timeout) for _ in range(count)]
    executor.shutdown(wait=False)
    return found


def test_a_hanging_provider_ends_at_the_deadline_and_its_request_is_dropped(
    runtime: dspex.Runtime, provider: Provider
) -> None:
    """If this failed, a provider that never answers would hold a call, a slot or a paid connection."""
    provider.reply = lambda _: hanging()
    before, left = pids(runtime), provider.disconnects
    with pytest.raises(dspex.PythonTimeout) as caught:
        runtime.adapter().generate("?", timeout=0.4)
    assert caught.value.details["phase"] == "running"
    assert caught.value.details["killed"] is False
    assert 0.4 <= caught.value.details["elapsed"] < 5
    until(lambda: provider.disconnects == left + 1)
    assert pids(runtime) == before, "no worker had to die for what could be cancelled"


@pytest.mark.parametrize("command", ["sleep", "spin", "hold_gil", "swallow"])
def test_what_cannot_be_cancelled_is_killed_and_the_worker_replaced(
    runtime: dspex.Runtime, command: str, tmp_path: Path
) -> None:
    """If this failed, a deadline would only be said, and the work would run on."""
    mark = tmp_path / "pid"
    args: dict[str, Any] = {"mark": str(mark)} | ({"seconds": 3600} if command == "sleep" else {})
    with pytest.raises(dspex.PythonTimeout) as caught:
        runtime.pool("general").execute(command, args, timeout=0.3)
    assert caught.value.details["killed"] is True
    (pid,) = map(int, lines(mark))
    until(lambda: not alive(pid))
    until(lambda: healthy(runtime, "general", 2))
    assert runtime.pool("general").execute("ping") == "pong"
    assert runtime.stats().pools["general"].restarts["deadline"] >= 1


@pytest.mark.parametrize("setsid", [False, True])
def test_a_killed_workers_children_die_with_it(runtime: dspex.Runtime, tmp_path: Path, setsid: bool) -> None:
    """If this failed, programs that start processes would leave them behind, in new sessions or not."""
    pidfile = tmp_path / "grandchild"
    args = {"pidfile": str(pidfile), "setsid": setsid}

    async def leave_it() -> None:
        running = asyncio.create_task(runtime.pool("general").aexecute("grandchild", args, timeout=60))
        await asyncio.to_thread(until, lambda: pidfile.exists() and pidfile.read_text(), 60)
        running.cancel()  # it does not stop, and its worker is killed
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(leave_it())
    until(lambda: not alive(int(pidfile.read_text())))
    until(lambda: healthy(runtime, "general", 2))


def test_calls_of_a_killed_worker_that_may_be_repeated_are_answered(
    runtime: dspex.Runtime, provider: Provider
) -> None:
    """If this failed, one crash would cost every question that the worker was waiting on."""
    release = threading.Event()

    def slow_first(_: Request) -> Reply:
        return echo() if release.is_set() else hanging()

    provider.reply = slow_first
    executor = ThreadPoolExecutor(6)
    asked = [executor.submit(runtime.adapter().generate, f"question {n}") for n in range(6)]
    until(lambda: provider.in_flight == 6)
    release.set()
    for pid in pids(runtime):
        os.kill(pid, signal.SIGKILL)
    answers = [future.result(20) for future in asked]
    assert [answer.response for answer in answers] == [f"question {n}" for n in range(6)]
    # A call may have gone to the second worker in the moment before that one was killed.
    assert {answer.attempts for answer in answers} <= {2, 3}
    until(lambda: healthy(runtime, "general", 2))


def test_a_neighbour_of_a_stuck_call_is_run_again(
    runtime: dspex.Runtime, provider: Provider, tmp_path: Path
) -> None:
    """If this failed, another caller's stuck program would fail an innocent question."""
    held = threading.Event()

    def held_back(_: Request) -> Reply:
        return echo() if held.is_set() else hanging()

    provider.reply = held_back
    with ThreadPoolExecutor(8) as executor:
        # Of two both could be in the worker that has their program built already.
        asked = [executor.submit(runtime.adapter().generate, f"n{n}") for n in range(4)]
        until(lambda: provider.in_flight == 4)
        held.set()
        stuck = [executor.submit(runtime.pool("general").execute, "spin", {}, timeout=0.3) for _ in range(2)]
        for future in stuck:
            assert isinstance(future.exception(20), dspex.PythonTimeout)
        assert [future.result(20).response for future in asked] == ["n0", "n1", "n2", "n3"]
    until(lambda: healthy(runtime, "general", 2))


def test_a_call_that_may_not_be_repeated_is_reported_lost(runtime: dspex.Runtime) -> None:
    """If this failed, a command with side effects would run twice, or its caller wait for ever."""
    with pytest.raises(dspex.WorkerLost) as caught:
        runtime.pool("general").execute("die", {"status": 7})
    assert caught.value.retryable
    assert "status 7" in caught.value.message
    assert caught.value.request_id
    until(lambda: healthy(runtime, "general", 2))


@pytest.mark.anyio
async def test_a_call_that_a_dead_worker_never_got_is_given_to_another() -> None:
    """If this failed, each death would cost calls that nobody had begun, until the death is noticed."""
    async with dspex.Runtime(pools={"general": dspex.PoolOptions(workers=1)}) as runtime:
        pool = runtime.pool("general")
        (worker,) = runtime.stats().pools["general"].workers
        os.kill(worker.pid, signal.SIGKILL)
        while alive(worker.pid):  # in the loop's own thread, so that nobody there notices
            pass
        assert await pool.aexecute("echo", {"text": "once"}, timeout=60) == {"text": "once"}


def test_an_idle_worker_that_dies_is_replaced(runtime: dspex.Runtime) -> None:
    """If this failed, a pool would shrink with each accident until nobody answers."""

    def replaced(victim: int) -> bool:
        return victim not in pids(runtime) and healthy(runtime, "general", 2)

    for _ in range(3):
        until(lambda: healthy(runtime, "general", 2))
        victim = pids(runtime)[0]
        os.kill(victim, signal.SIGKILL)
        until(partial(replaced, victim))
    assert runtime.pool("general").execute("ping") == "pong"


def test_shutdown_ends_one_worker_tidily(runtime: dspex.Runtime) -> None:
    """If this failed, the command would answer nothing, or cost the pool a worker."""
    before = pids(runtime)
    assert runtime.pool("general").execute("shutdown") is None
    until(lambda: set(pids(runtime)) != set(before) and healthy(runtime, "general", 2))


def test_the_queue_is_bounded(runtime: dspex.Runtime, tmp_path: Path) -> None:
    """If this failed, a busy service would collect calls until memory ends."""
    mark = tmp_path / "mark"
    running = in_background(runtime, 1, "wait", pool="narrow", seconds=1.0, mark=str(mark))
    until(lambda: lines(mark))
    waiting = in_background(runtime, 2, "ping", pool="narrow")
    until(lambda: runtime.stats().pools["narrow"].queued == 2)
    with pytest.raises(dspex.PoolSaturated) as caught:
        runtime.pool("narrow").execute("ping")
    assert caught.value.retry_after is not None
    assert caught.value.retry_after > 0
    assert caught.value.retryable
    assert running[0].result(20) == "waited"
    assert [future.result(20) for future in waiting] == ["pong", "pong"]


def test_a_call_whose_deadline_passes_in_the_queue_never_runs(runtime: dspex.Runtime, tmp_path: Path) -> None:
    """If this failed, work that nobody waits for any more would still be done and paid."""
    mark, late = tmp_path / "mark", tmp_path / "late"
    running = in_background(runtime, 1, "wait", pool="narrow", seconds=0.6, mark=str(mark))
    until(lambda: lines(mark))
    with pytest.raises(dspex.PythonTimeout) as caught:
        runtime.pool("narrow").execute("wait", {"seconds": 0, "mark": str(late)}, timeout=0.1)
    assert caught.value.details["phase"] == "queued"
    assert caught.value.details["killed"] is False
    assert running[0].result(20) == "waited"
    assert runtime.pool("narrow").execute("ping") == "pong"
    assert not lines(late)
    assert runtime.stats().pools["narrow"].queued == 0


def test_queue_timeout_is_shorter_than_the_deadline(runtime: dspex.Runtime, tmp_path: Path) -> None:
    """If this failed, callers could not bound their wait for a slot apart from the work itself."""
    mark = tmp_path / "mark"
    running = in_background(runtime, 1, "wait", pool="patient", seconds=0.8, mark=str(mark))
    until(lambda: lines(mark))
    with pytest.raises(dspex.QueueTimeout) as caught:
        runtime.pool("patient").execute("ping")
    assert caught.value.details == {"queue_timeout": 0.2}
    assert running[0].result(20) == "waited", "a call that runs is past its queue_timeout"


def test_a_deadline_in_the_past_never_runs(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a call with no time left would still be paid for."""
    before = len(provider.requests)
    with pytest.raises(dspex.PythonTimeout):
        runtime.adapter().generate("?", timeout=1e-9)
    assert len(provider.requests) == before


@pytest.mark.anyio
async def test_cancelling_a_running_call_stops_its_request(
    runtime: dspex.Runtime, provider: Provider
) -> None:
    """If this failed, a client that disconnects would go on costing money."""
    provider.reply = lambda _: hanging()
    left = provider.disconnects
    task = asyncio.create_task(runtime.adapter().agenerate("?"))
    await asyncio.to_thread(until, lambda: provider.in_flight == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(until, lambda: provider.disconnects == left + 1)
    await asyncio.to_thread(
        until, lambda: all(w.in_flight == 0 for w in runtime.stats().pools["general"].workers)
    )


@pytest.mark.anyio
async def test_cancelling_a_queued_call_takes_it_out(runtime: dspex.Runtime, tmp_path: Path) -> None:
    """If this failed, callers that have gone away would fill the queue."""
    mark, late = tmp_path / "mark", tmp_path / "late"
    pool = runtime.pool("narrow")
    running = asyncio.create_task(pool.aexecute("wait", {"seconds": 0.5, "mark": str(mark)}))
    await asyncio.to_thread(until, lambda: lines(mark))
    queued = asyncio.create_task(pool.aexecute("wait", {"seconds": 0, "mark": str(late)}))
    await asyncio.to_thread(until, lambda: runtime.stats().pools["narrow"].queued == 1)
    queued.cancel()
    with pytest.raises(asyncio.CancelledError):
        await queued
    await asyncio.to_thread(until, lambda: runtime.stats().pools["narrow"].queued == 0)
    assert await running == "waited"
    assert await pool.aexecute("ping") == "pong"
    assert not lines(late)


@pytest.mark.anyio
async def test_a_cancelled_call_that_does_not_stop_is_killed(runtime: dspex.Runtime, tmp_path: Path) -> None:
    """If this failed, a caller that leaves would leave a stuck thread and a lost slot behind."""
    mark = tmp_path / "mark"
    task = asyncio.create_task(
        runtime.pool("narrow").aexecute("sleep", {"seconds": 3600, "mark": str(mark)}, timeout=None)
    )
    await asyncio.to_thread(until, lambda: lines(mark))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(until, lambda: not alive(int(lines(mark)[0])))
    await asyncio.to_thread(until, lambda: healthy(runtime, "narrow", 1))


def test_calls_are_spread_over_all_workers(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, one worker would do all the work and the other cores none."""
    provider.reply = lambda _: delayed(0.2, echo())
    with ThreadPoolExecutor(8) as executor:
        answers = list(executor.map(runtime.adapter().generate, [f"q{n}" for n in range(8)]))
    workers = [answer.worker for answer in answers]
    assert len(set(workers)) == 2
    assert workers.count(workers[0]) == 4


def test_a_worker_never_has_more_calls_than_slots(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, slots would not bound what one worker takes on, and a crash would cost more."""
    provider.reply = lambda _: delayed(0.05, echo())
    provider.peak_in_flight = 0
    with ThreadPoolExecutor(48) as executor:
        answers = list(executor.map(runtime.adapter().generate, [f"q{n}" for n in range(48)]))
    assert [answer.response for answer in answers] == [f"q{n}" for n in range(48)]
    assert provider.peak_in_flight <= 16


def test_too_large_both_ways(runtime: dspex.Runtime) -> None:
    """If this failed, one value could take the memory of the service, or break the channel for the rest."""
    pool = runtime.pool("general")
    with pytest.raises(dspex.PayloadTooLarge) as sent:
        pool.execute("echo", {"data": b"x" * (9 * 1024 * 1024)})
    assert sent.value.details["limit"] == 8 * 1024 * 1024
    with pytest.raises(dspex.ResultTooLarge) as returned:
        pool.execute("big", {"size": 9 * 1024 * 1024})
    assert returned.value.details["size"] > returned.value.details["limit"]
    data = os.urandom(7 * 1024 * 1024)
    assert pool.execute("echo", {"data": data}) == {"data": data}


def test_a_program_that_forks_does_not_disturb_its_worker(runtime: dspex.Runtime) -> None:
    """If this failed, multiprocessing inside a program would answer or close somebody else's channel."""
    before = pids(runtime)
    assert runtime.pool("general").execute("fork_and_use") == 0
    assert runtime.pool("general").execute("ping") == "pong"
    assert pids(runtime) == before


def test_sys_exit_in_user_code_is_a_failed_call(runtime: dspex.Runtime) -> None:
    """If this failed, a library that calls sys.exit would take the worker and its neighbours along."""
    before = pids(runtime)
    with pytest.raises(dspex.PythonError) as caught:
        runtime.pool("general").execute("exit")
    assert caught.value.details["type"] == "SystemExit"
    assert pids(runtime) == before


def test_counters_add_up(runtime: dspex.Runtime) -> None:
    """If this failed, what an operator reads would not be what happened."""
    before = runtime.stats().pools["general"].counters
    pool = runtime.pool("general")
    for _ in range(5):
        pool.execute("ping")
    for _ in range(3):
        with pytest.raises(dspex.PythonError):
            pool.execute("exit")
    after = runtime.stats().pools["general"].counters
    changed = {code: count - before.get(code, 0) for code, count in after.items()}
    assert {code: count for code, count in changed.items() if count} == {"ok": 5, "python_error": 3}


def test_workers_have_their_own_random_numbers_and_environment(
    runtime: dspex.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, forked workers would draw the same numbers, or see keys that nobody passed."""
    with ThreadPoolExecutor(8) as executor:
        pool = runtime.pool("general")
        numbers = [f.result() for f in [executor.submit(pool.execute, "random") for _ in range(8)]]
    assert len(set(numbers)) == 8
    environment = runtime.pool("general").execute("environment")
    assert "PATH" in environment
    assert not [name for name in environment if name.startswith(("OPENAI", "PYTEST"))]


def test_time_is_monotonic_in_timing(runtime: dspex.Runtime) -> None:
    """If this failed, durations would be timestamps, or their parts exceed the whole."""
    started = time.monotonic()
    timing = runtime.adapter().generate("?").timing
    assert 0 < timing.run <= timing.total <= time.monotonic() - started
    assert 0 <= timing.queued < timing.total
    assert 0 < timing.model <= timing.run


def test_a_zygote_of_another_version_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, an upgrade under a running service would end in riddles from the wire."""
    monkeypatch.setattr("dspex.pool.zygote_client.PROTOCOL", 99)
    with pytest.raises(dspex.PoolUnhealthy, match="restart the program"):
        dspex.Runtime().open()


def test_a_worker_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a worker whose messages mean something else would be given calls."""
    monkeypatch.setattr("dspex.pool.handle.PROTOCOL", 99)
    with pytest.raises(dspex.PoolUnhealthy, match="protocol"):
        dspex.Runtime(pools={"general": dspex.PoolOptions(workers=1)}).open()


def test_what_garbles_the_channel_ends_its_worker_and_no_other(
    runtime: dspex.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, a program that writes to the wrong descriptor would break more than its own worker."""
    before = set(pids(runtime))
    with pytest.raises(dspex.WorkerLost, match=r"malformed|frame"):
        runtime.pool("general").execute("garble")
    until(lambda: healthy(runtime, "general", 2))
    assert len(before & set(pids(runtime))) == 1
