"""Workers that run one call each: started when a call needs one, ended with it, shared with nobody."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import dspex
from tests.processes import alive, lines, until
from tests.provider import Provider, echo, fault, sequence

SETTINGS = dspex.Settings(allow_modules=("tests.stuck",))


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


@pytest.fixture(scope="module")
def runtime(provider: Provider) -> Iterator[dspex.Runtime]:
    pools = {
        "general": dspex.PoolOptions(workers=1),
        "isolated": dspex.PoolOptions(max=3, max_queue=2, grace=0.3),
        "spare": dspex.PoolOptions(isolation="call", min=1, max=2),
    }
    lm = dspex.LM("openai/x", base_url=provider.base_url)
    with dspex.Runtime(lm, pools=pools, settings=SETTINGS) as opened:
        yield opened


def test_each_call_has_a_process_of_its_own(runtime: dspex.Runtime) -> None:
    """If this failed, what one caller's program leaves behind would reach the next one's."""
    pids = [runtime.pool("isolated").execute("pid") for _ in range(5)]
    assert len(set(pids)) == 5
    until(lambda: not any(map(alive, pids)))
    assert runtime.stats().pools["isolated"].restarts == {}


def test_programs_run_there_as_anywhere(runtime: dspex.Runtime) -> None:
    """If this failed, a suspect that is run again alone would get another answer."""
    answer = runtime.adapter(pool="isolated").generate("Where?")
    assert answer.response == "Where?"
    assert len(answer.requests) == 1


def test_it_is_bounded(runtime: dspex.Runtime, tmp_path: Path) -> None:
    """If this failed, a burst of calls would start processes until memory ends."""
    mark = tmp_path / "mark"
    pool = runtime.pool("isolated")
    with ThreadPoolExecutor(5) as executor:
        calls = [executor.submit(pool.execute, "wait", {"seconds": 1.5, "mark": str(mark)}) for _ in range(5)]
        until(lambda: len(lines(mark)) == 3 and runtime.stats().pools["isolated"].queued == 2)
        assert len(runtime.stats().pools["isolated"].workers) == 3
        with pytest.raises(dspex.PoolSaturated):
            pool.execute("ping")
        assert [call.result(20) for call in calls] == ["waited"] * 5
    assert len(set(lines(mark))) == 5


def test_a_spare_worker_stands_ready(runtime: dspex.Runtime) -> None:
    """If this failed, `min` of such a pool would start nothing, or one worker would answer twice."""
    until(lambda: [w.state for w in runtime.stats().pools["spare"].workers] == ["ready"])
    (spare,) = [worker.pid for worker in runtime.stats().pools["spare"].workers]
    assert runtime.pool("spare").execute("pid") == spare
    until(lambda: [w.state for w in runtime.stats().pools["spare"].workers] == ["ready"])
    assert runtime.pool("spare").execute("pid") != spare


@pytest.mark.parametrize("command", ["sleep", "spin", "hold_gil", "swallow"])
def test_a_deadline_ends_the_process(runtime: dspex.Runtime, command: str, tmp_path: Path) -> None:
    """If this failed, stuck programs would fill the pool that is there for them."""
    mark = tmp_path / "mark"
    args = {"mark": str(mark)} | ({"seconds": 3600} if command == "sleep" else {})
    with pytest.raises(dspex.PythonTimeout) as caught:
        runtime.pool("isolated").execute(command, args, timeout=0.5)
    assert caught.value.details["killed"] is True
    until(lambda: not alive(int(lines(mark)[0])))


def test_a_call_that_times_out_before_it_runs_leaves_no_worker(
    runtime: dspex.Runtime, tmp_path: Path
) -> None:
    """If this failed, workers that nobody calls any more would take the place of those that are needed."""
    mark, late = tmp_path / "mark", tmp_path / "late"
    pool = runtime.pool("isolated")
    with ThreadPoolExecutor(3) as executor:
        calls = [executor.submit(pool.execute, "wait", {"seconds": 1.0, "mark": str(mark)}) for _ in range(3)]
        until(lambda: len(lines(mark)) == 3)
        with pytest.raises(dspex.PythonTimeout) as caught:
            pool.execute("wait", {"seconds": 0, "mark": str(late)}, timeout=0.2)
        assert caught.value.details["phase"] == "queued"
        assert [call.result(20) for call in calls] == ["waited"] * 3
    until(lambda: not runtime.stats().pools["isolated"].workers, 40)
    assert not late.exists()


def test_a_pool_without_workers_wakes_up_when_its_lm_may_be_asked(
    runtime: dspex.Runtime, provider: Provider
) -> None:
    """If this failed, a call that waited for its provider to recover would wait until its deadline."""
    provider.reply = sequence(fault(429, retry_after=0.3), echo())
    adapter = runtime.adapter(pool="isolated", timeout=20.0)
    lm = dspex.LM("openai/y", base_url=provider.base_url, retry=dspex.Retry(attempts=1))
    with pytest.raises(dspex.LMRateLimited):
        adapter.generate("first", lm=lm)
    until(lambda: not runtime.stats().pools["isolated"].workers)
    assert adapter.generate("second", lm=lm).response == "second"


def test_companions_must_exist() -> None:
    """If this failed, a slip in a name would show when a worker has crashed for the first time."""
    with pytest.raises(dspex.InvalidOption, match="isolated='elsewhere'"):
        dspex.Runtime(pools={"general": dspex.PoolOptions(isolated="elsewhere")})
    with pytest.raises(dspex.InvalidOption, match="another pool"):
        dspex.Runtime(pools={"general": dspex.PoolOptions(isolated="general")})
