"""When a pool says that it is broken, and how long it waits before it tries again."""

from __future__ import annotations

from pathlib import Path

import pytest

import dspex
from dspex.pool.health import Health
from tests.processes import until


def looping(health: Health) -> bool:
    return health.looping


def test_one_death_is_not_waited_for() -> None:
    """If this failed, each single crash of a new worker would be a gap in the service."""
    health = Health()
    assert health.pause() == 0
    health.failed("it died")
    assert health.pause() == 0
    health.failed("it died")
    assert 0 < health.pause() <= 0.2


def test_the_pause_doubles_up_to_a_limit_and_varies() -> None:
    """If this failed, workers that cannot start would take all of a core, or never be tried again."""
    health = Health()
    longest = []
    for _ in range(20):
        health.failed("it died")
        longest.append(max(health.pause() for _ in range(200)))
    assert longest == sorted(longest) or longest[-1] <= 10
    assert longest[5] > 2 * longest[3] * 0.8
    assert longest[-1] <= 10
    assert len({health.pause() for _ in range(20)}) > 5


def test_an_answer_begins_anew() -> None:
    """If this failed, a pool would slow down with every crash of its life."""
    health = Health()
    for _ in range(5):
        health.failed("it died")
    assert looping(health)
    health.answered()
    assert not looping(health)
    assert health.pause() == 0


def test_a_call_that_kills_its_worker_is_not_taken_for_a_broken_pool() -> None:
    """If this failed, one caller's crashing command would have everybody refused."""
    health = Health()
    for _ in range(5):
        health.failed("it died", in_a_call=True)
    assert not looping(health)
    health.failed("it died", in_a_call=True)
    assert looping(health)


def test_a_pool_that_has_recovered_is_not_trusted_at_once() -> None:
    """If this failed, a crash loop would be news three deaths later each time."""
    health = Health()
    health.failed("no such module", hopeless=True)
    assert looping(health)
    assert health.give_up()
    assert not health.give_up(), "said once"
    error = health.error
    assert error is not None
    assert error.details == {"cause": "no such module", "failures": 3}
    assert health.recovered()
    assert health.error is None
    assert not looping(health)
    health.failed("again")
    assert looping(health)


def test_a_crash_loop_is_said_at_once_and_ends_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, callers would wait out their deadlines before a pool that cannot answer."""
    broken = tmp_path / "broken"
    broken.touch()
    (tmp_path / "dies_in_workers.py").write_text(
        "import os\n"
        "def die():\n"
        f"    if os.path.exists({str(broken)!r}):\n"
        "        os._exit(3)\n"
        "os.register_at_fork(after_in_child=die)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    events: list[dspex.Event] = []
    options = dspex.PoolOptions(workers=2, preload=["dies_in_workers"])
    runtime = dspex.Runtime(pools={"general": dspex.PoolOptions(workers=1), "crashing": options}, wait=False)
    runtime.on(dspex.PoolEvent, events.append)
    with runtime:
        assert runtime.pool("general").execute("ping") == "pong", "it stops no other pool"
        until(lambda: runtime.stats().pools["crashing"].unhealthy, 30)
        with pytest.raises(dspex.PoolUnhealthy) as caught:
            runtime.pool("crashing").execute("ping")
        assert "status 3" in caught.value.details["cause"]
        assert caught.value.retryable
        broken.unlink()
        until(lambda: runtime.stats().pools["crashing"].unhealthy is None, 30)
        assert runtime.pool("crashing").execute("ping") == "pong"
        # Events have a thread of their own, and arrive a moment after what they tell of.
        until(lambda: any(isinstance(event, dspex.PoolRecovered) for event in events))
        kinds = [
            type(event) for event in events if isinstance(event, dspex.PoolEvent) and event.pool == "crashing"
        ]
        assert kinds == [dspex.PoolFailed, dspex.PoolRecovered]
