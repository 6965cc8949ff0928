"""How much of a pool one tenant may hold."""

from __future__ import annotations

import pytest

from dspex.pool.shares import Shares
from tests.test_queue import work


@pytest.mark.parametrize(
    ("max_share", "slots", "most"), [(0.5, 4, 2), (0.5, 5, 2), (1.0, 3, 3), (0.01, 10, 1), (0.3, 1, 1)]
)
def test_a_lane_holds_its_part_and_at_least_one(max_share: float, slots: int, most: int) -> None:
    """A tenant would have more than its part, or nothing at all."""
    shares = Shares(max_share)
    one = work(1, tenant="a")
    for _ in range(most):
        assert shares.left(one, slots)
        shares.take(one)
    assert not shares.left(one, slots)
    assert shares.left(work(1, tenant="b"), slots)
    assert shares.left(work(2, tenant="a"), slots)
    shares.give_back(one)
    assert shares.left(one, slots)


def test_without_a_limit_one_may_have_all() -> None:
    """A pool with one user would leave slots empty."""
    shares = Shares(None)
    for _ in range(1000):
        assert shares.left(work(), 1)
        shares.take(work())


def test_nothing_is_kept_of_tenants_that_are_gone() -> None:
    """A service with a million tenants would grow for ever."""
    shares = Shares(0.5)
    for number in range(1000):
        one = work(tenant=str(number))
        shares.take(one)
        shares.give_back(one)
    assert not shares._held
