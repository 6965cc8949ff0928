"""When to come again, from how fast calls end."""

from __future__ import annotations

import pytest

from dspex.pool.rate import Rate


def steady(seconds: float, calls: int, at_once: int = 1, start: float = 1000.0) -> tuple[Rate, float]:
    """A pool in which calls have ended that far apart, always with as many running."""
    rate, now = Rate(1), start
    for _ in range(at_once):
        rate.began(now)
    for _ in range(calls):
        now += seconds
        rate.ended(now)
        rate.began(now)
    return rate, now


def test_a_steady_flow_is_measured() -> None:
    """Callers would come back far too early, or wait for nothing."""
    rate, now = steady(0.1, 200)
    assert rate.wait(10, now) == 1.0
    assert rate.wait(1, now) == 0.1


def test_a_flow_that_changes_is_measured_anew() -> None:
    """An hour of fast calls would hide that the provider has become slow."""
    rate, now = steady(0.01, 1000)
    for _ in range(64):
        now += 1.0
        rate.ended(now)
        rate.began(now)
    assert 0.9 <= rate.wait(1, now) <= 1.1


def test_what_hangs_makes_the_wait_longer_up_to_a_limit() -> None:
    """Callers would be told to come back in a moment, again and again, while nothing moves."""
    rate, now = steady(0.1, 10)
    soon, later = rate.wait(1, now), rate.wait(1, now + 20)
    assert later > 10 * soon
    assert rate.wait(1000, now + 3600) == 60.0


def test_before_anything_has_ended() -> None:
    """The first caller who is refused would get no hint at all, or a division by nothing."""
    rate = Rate(1)
    assert rate.wait(1, 5.0) == 1.0
    rate.began(5.0)
    assert rate.wait(1, 5.0) == 1.0
    assert rate.wait(1, 9.0) == 4.0, "none has ended in four seconds"


def test_a_pause_is_not_taken_for_slowness() -> None:
    """The first burst after a quiet night would be told to come back in a minute."""
    rate, now = steady(0.1, 100)
    rate.ended(now)
    rate.began(now + 10_000)
    assert rate.wait(1, now + 10_000) <= 0.2


@pytest.mark.parametrize("slots", [1, 16, 64, 512])
def test_calls_that_end_in_waves(slots: int) -> None:
    """Who is refused right after a wave would be told to come back at once."""
    rate, now = Rate(slots), 1000.0
    for _ in range(slots):
        rate.began(now)
    for _ in range(100):
        now += 10.0
        for number in range(slots):
            rate.ended(now + number * 1e-4)
            rate.began(now + number * 1e-4)
    now += slots * 1e-4
    assert 5.0 <= rate.wait(slots, now) <= 12.0


def test_it_is_never_nothing() -> None:
    """Callers would come back without a pause."""
    rate, now = steady(0.0001, 100)
    assert rate.wait(1, now) == 0.05
