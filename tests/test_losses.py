"""What becomes of calls whose worker was lost: innocents are answered, and who is to blame is found."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import dspex
from tests.processes import alive, lines, until
from tests.provider import Provider, delayed, echo

SETTINGS = dspex.Settings(allow_modules=("tests.stuck", "tests.deadly"))


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


@pytest.fixture(scope="module")
def runtime(provider: Provider) -> Iterator[dspex.Runtime]:
    lm = dspex.LM("openai/x", base_url=provider.base_url, adapter="tests.deadly:Deadly")
    pools = {
        "general": dspex.PoolOptions(workers=2, slots=32, grace=0.3),
        "strict": dspex.PoolOptions(workers=1, max_reruns=1, grace=0.3),
        "never": dspex.PoolOptions(workers=1, max_reruns=0, grace=0.3),
    }
    with dspex.Runtime(lm, pools=pools, settings=SETTINGS) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _restore(provider: Provider) -> Iterator[None]:
    provider.reply = lambda _: echo()
    yield
    provider.reply = lambda _: echo()


def accounts(runtime: dspex.Runtime) -> Counter[str]:
    """All calls by how they ended, after a look at whether they add up."""
    found: Counter[str] = Counter()
    for pool in runtime.stats().pools.values():
        assert pool.calls == sum(pool.counters.values()) + pool.unfinished
        found.update(pool.counters)
    return found


def test_who_kills_each_worker_is_found_and_nobody_else_is_harmed(
    runtime: dspex.Runtime, provider: Provider
) -> None:
    """If this failed, one crashing input would take innocent calls along, or be tried for ever."""
    provider.reply = lambda _: delayed(0.1, echo())
    before = accounts(runtime)
    with ThreadPoolExecutor(24) as executor:
        innocent = [executor.submit(runtime.adapter().generate, f"question {n}") for n in range(20)]
        guilty = executor.submit(runtime.adapter().generate, "exit")
        error = guilty.exception(30)
        assert [future.result(30).response for future in innocent] == [f"question {n}" for n in range(20)]
    assert isinstance(error, dspex.PoisonCall)
    assert not error.retryable
    assert "status 9" in error.message
    assert error.details["attempts"] == 3, "once among others, twice alone"
    assert accounts(runtime) - before == {"ok": 20, "poison_call": 1}
    assert runtime.stats().pools["general"].counters["poison_call"] == 1, "counted where it was made"
    assert runtime.stats().pools["general"].unhealthy is None
    assert runtime.stats().pools["isolated"].unhealthy is None


def test_a_call_that_crashes_once_is_answered(runtime: dspex.Runtime, tmp_path: Path) -> None:
    """If this failed, a rare crash of a library would be taken for the input's fault."""
    answer = runtime.adapter().generate(f"exit once {tmp_path / 'mark'}")
    assert answer.attempts == 2
    assert answer.response.startswith("exit once")


@pytest.mark.parametrize(("pool", "attempts"), [("strict", 2), ("never", 1)])
def test_max_reruns_bounds_how_often_a_suspect_runs(runtime: dspex.Runtime, pool: str, attempts: int) -> None:
    """If this failed, a call would cost more tokens than its owner agreed to."""
    with pytest.raises(dspex.WorkerLost) as caught:
        runtime.adapter(pool=pool).generate("exit")
    assert caught.value.details["attempts"] == attempts


def test_a_call_that_blocks_its_worker_harms_nobody(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, code that never awaits would cost its neighbours their answers."""
    provider.reply = lambda _: delayed(0.3, echo())
    with ThreadPoolExecutor(12) as executor:
        innocent = [executor.submit(runtime.adapter().generate, f"q{n}") for n in range(8)]
        until(lambda: provider.in_flight == 8)
        stuck = executor.submit(runtime.adapter(timeout=0.5).generate, "spin")
        error = stuck.exception(20)
        assert isinstance(error, dspex.PythonTimeout)
        assert error.details["killed"] is True
        assert [future.result(20).response for future in innocent] == [f"q{n}" for n in range(8)]


def test_a_worker_killed_from_outside_costs_no_answer(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, the kernel's out-of-memory killer would fail calls that had nothing to do with it."""
    provider.reply = lambda _: delayed(0.3, echo())
    with ThreadPoolExecutor(8) as executor:
        asked = [executor.submit(runtime.adapter().generate, f"q{n}") for n in range(8)]
        until(lambda: provider.in_flight == 8)
        for worker in runtime.stats().pools["general"].workers:
            os.kill(worker.pid, signal.SIGKILL)
        assert [future.result(20).response for future in asked] == [f"q{n}" for n in range(8)]
        # A call may have gone to the second worker in the moment before that one was killed.
        assert {future.result().attempts for future in asked} <= {2, 3}
    until(lambda: [w.state for w in runtime.stats().pools["general"].workers] == ["ready"] * 2)


def test_isolated_workers_leave_nothing(runtime: dspex.Runtime) -> None:
    """If this failed, each crash would leave a process that waits for a second call."""
    with pytest.raises(dspex.PoisonCall):
        runtime.adapter().generate("exit")
    until(lambda: not runtime.stats().pools["isolated"].workers)
    assert runtime.stats().pools["isolated"].queued == 0


def test_shutdown_of_one_worker_lets_its_other_calls_end(runtime: dspex.Runtime, tmp_path: Path) -> None:
    """If this failed, the command would cancel what others run on that worker."""
    mark = tmp_path / "mark"
    with ThreadPoolExecutor(2) as executor:
        pool = runtime.pool("never")
        running = executor.submit(pool.execute, "wait", {"seconds": 0.5, "mark": str(mark)})
        until(lambda: lines(mark))
        pid = int(mark.read_text())
        assert pool.execute("shutdown") is None
        assert pool.execute("ping") == "pong", "another worker takes the calls meanwhile"
        assert running.result(20) == "waited"
    until(lambda: not alive(pid))
    until(lambda: runtime.stats().pools["never"].restarts.get("shutdown") == 1)
