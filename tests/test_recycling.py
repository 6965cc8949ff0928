"""Workers are replaced when they are old, used up or large, and nobody notices."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import dspex
from dspex.pool.lifespan import Lifespan
from tests.processes import alive, until

MiB = 1024 * 1024
SETTINGS = dspex.Settings(allow_modules=("tests.stuck",))


@pytest.fixture(scope="module")
def runtime() -> Iterator[dspex.Runtime]:
    pools = {
        "general": dspex.PoolOptions(workers=1, slots=4),
        "calls": dspex.PoolOptions(workers=2, slots=2, max_calls=20),
        "age": dspex.PoolOptions(workers=1, max_age=1.5),
        "rss": dspex.PoolOptions(workers=1, max_rss=200 * MiB),
    }
    with dspex.Runtime(pools=pools, settings=SETTINGS) as opened:
        yield opened


def restarts(runtime: dspex.Runtime, pool: str) -> dict[str, int]:
    return runtime.stats().pools[pool].restarts


def test_workers_that_have_run_their_calls_are_replaced(runtime: dspex.Runtime) -> None:
    """If this failed, what a program leaks would pile up for as long as the service runs."""
    pids: list[int] = []
    with ThreadPoolExecutor(8) as executor:
        # How many calls a worker runs before its successor is ready is the machine's affair.
        while len(set(pids)) <= 4 or len(pids) < 400:
            pids += executor.map(lambda _: runtime.pool("calls").execute("pid"), range(100))
    until(lambda: [w.state for w in runtime.stats().pools["calls"].workers] == ["ready"] * 2)
    assert set(restarts(runtime, "calls")) == {"calls"}
    assert runtime.stats().pools["calls"].counters == {"ok": len(pids)}, "and no call was lost on the way"


def test_the_successor_is_ready_before_the_old_one_goes(runtime: dspex.Runtime, tmp_path: Path) -> None:
    """If this failed, each replacement would be a gap in the service, or cut a call off."""
    events: list[dspex.Event] = []
    stop = runtime.on(dspex.WorkerEvent, events.append)
    mark = tmp_path / "mark"
    running = runtime.pool("age").execute("wait", {"seconds": 4, "mark": str(mark)})
    assert running == "waited"
    old = int(mark.read_text())
    until(lambda: any(isinstance(event, dspex.WorkerGone) and event.pid == old for event in events))
    assert not alive(old)
    stop()
    mine = [event for event in events if isinstance(event, dspex.WorkerEvent) and event.pool == "age"]
    order = [
        (type(event).__name__, event.pid == old)
        for event in mine
        if event.pid == old or isinstance(event, dspex.WorkerReady)
    ]
    ready, draining, gone = (order.index(step) for step in (
        ("WorkerReady", False), ("WorkerDraining", True), ("WorkerGone", True),
    ))  # fmt: skip
    assert ready < draining < gone
    (end,) = [event for event in mine if isinstance(event, dspex.WorkerGone) and event.pid == old]
    assert (end.cause, end.planned, end.lost) == ("age", True, 0)


def test_a_worker_that_has_grown_is_replaced_when_its_calls_have_ended(
    runtime: dspex.Runtime, tmp_path: Path
) -> None:
    """If this failed, one large call would keep its memory for ever, or be cut off for it."""
    mark = tmp_path / "mark"
    pool = runtime.pool("rss")
    held = pool.execute("hoard", {"size": 200 * MiB, "seconds": 1.0, "mark": str(mark)})
    assert held == 200, "it ran to its end"
    until(lambda: not alive(int(mark.read_text())))
    until(lambda: restarts(runtime, "rss").get("rss") == 1)
    assert pool.execute("ping") == "pong"


def test_a_program_that_takes_all_memory_is_killed(runtime: dspex.Runtime, tmp_path: Path) -> None:
    """If this failed, one program could take the machine down, the zygote and its neighbours first."""
    mark = tmp_path / "mark"
    with ThreadPoolExecutor(1) as executor:
        other = executor.submit(runtime.pool("general").execute, "wait", {"seconds": 2.0})
        with pytest.raises(dspex.DspexError) as caught:
            runtime.pool("rss").execute("hoard", {"size": 8192 * MiB, "mark": str(mark)}, timeout=60.0)
        assert caught.value.code in {"worker_lost", "python_error"}
        assert "memory" in caught.value.message.lower()
        assert other.result(20) == "waited"
    until(lambda: not alive(int(mark.read_text())))
    until(lambda: [w.state for w in runtime.stats().pools["rss"].workers] == ["ready"])


def test_lifespans_differ_a_little() -> None:
    """If this failed, all workers of a pool would be replaced in the same moment."""
    options = dspex.PoolOptions(max_calls=1000, max_age=100.0, max_rss=1000 * MiB)
    drawn = [Lifespan.drawn(options) for _ in range(100)]
    for name, most in {"calls": 1000, "seconds": 100.0, "rss": 1000 * MiB}.items():
        values = [getattr(life, name) for life in drawn]
        assert len(set(values)) > 10
        assert all(0.9 * most <= value <= most for value in values)
    assert Lifespan.drawn(dspex.PoolOptions(max_calls=1)).calls == 1
    assert Lifespan.drawn(dspex.PoolOptions()).seconds == float("inf")
