"""The number of workers follows the load, between its bounds."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import dspex
from tests.processes import until

SETTINGS = dspex.Settings(allow_modules=("tests.stuck",))


@pytest.fixture(scope="module")
def runtime() -> Iterator[dspex.Runtime]:
    pools = {
        "general": dspex.PoolOptions(min=1, max=3, slots=2),
        "asleep": dspex.PoolOptions(min=0, max=2, slots=2),
    }
    with dspex.Runtime(pools=pools, settings=SETTINGS) as opened:
        yield opened


def size(runtime: dspex.Runtime, pool: str) -> int:
    return sum(worker.state in {"ready", "busy"} for worker in runtime.stats().pools[pool].workers)


def test_it_grows_while_calls_wait_and_shrinks_when_idle(runtime: dspex.Runtime) -> None:
    """If this failed, a pool would be too small at noon, or too dear at night."""
    events: list[dspex.PoolResized] = []
    stop = runtime.on(dspex.PoolResized, events.append)
    with ThreadPoolExecutor(12) as executor:
        calls = [executor.submit(runtime.pool().execute, "wait", {"seconds": 1.0}) for _ in range(12)]
        until(lambda: size(runtime, "general") == 3)
        assert runtime.stats().pools["general"].wanted == 3
        assert [call.result(30) for call in calls] == ["waited"] * 12
    until(lambda: size(runtime, "general") == 1, 40)
    assert runtime.stats().pools["general"].wanted == 1
    assert runtime.stats().pools["general"].restarts == {}, "none of them was replaced"
    # Events have a thread of their own, and arrive a moment after what they tell of.
    until(lambda: {"growth", "idle"} <= {event.cause for event in events})
    stop()
    assert {event.cause for event in events} == {"growth", "idle"}
    assert max(event.wanted for event in events) == 3
    assert runtime.pool().execute("ping") == "pong"


def test_a_pool_that_keeps_no_worker_starts_one_when_it_is_called(runtime: dspex.Runtime) -> None:
    """If this failed, `min=0` would make a pool that never answers."""
    assert size(runtime, "asleep") == 0
    assert runtime.pool("asleep").execute("ping") == "pong"
    assert size(runtime, "asleep") == 1
    until(lambda: size(runtime, "asleep") == 0, 40)
    assert runtime.pool("asleep").execute("ping") == "pong"


@pytest.mark.parametrize(
    ("options", "cores", "expected"),
    [
        ({}, 4, (4, 4)),
        ({"workers": 3}, 4, (3, 3)),
        ({"max": 8}, 4, (4, 8)),
        ({"max": 2}, 4, (2, 2)),
        ({"min": 1}, 4, (1, 4)),
        ({"min": 6}, 4, (6, 6)),
        ({"min": 0, "workers": 2, "max": 5}, 4, (0, 5)),
        ({"isolation": "call"}, 4, (0, 32)),
        ({"isolation": "call"}, 64, (0, 512)),
        ({"isolation": "call", "min": 2, "max": 5}, 4, (2, 5)),
        ({"isolation": "call", "workers": 3}, 4, (3, 3)),
    ],
)
def test_the_size_of_a_pool(options: dict[str, int], cores: int, expected: tuple[int, int]) -> None:
    """If this failed, the table of options would tell something else than what happens."""
    assert dspex.PoolOptions(**options).size(cores) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options", [{"min": 3, "max": 2}, {"workers": 2, "min": 3}, {"workers": 4, "max": 3}, {"max": 0}]
)
def test_a_size_that_cannot_be_is_refused(options: dict[str, int]) -> None:
    """If this failed, a slip in a settings file would silently make a pool of another size."""
    with pytest.raises(dspex.InvalidOption):
        dspex.PoolOptions(**options)  # type: ignore[arg-type]
