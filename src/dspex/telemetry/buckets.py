"""Distributions of seconds that cost next to nothing to add to."""

from __future__ import annotations

import math
from bisect import bisect_left

#: Upper ends in seconds of the buckets of a Prometheus histogram.
BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
# Upper ends for percentiles: each a twentieth above the one before it, from 0.1 ms to a day.
_STEP = 1.05
_FINE = tuple(0.0001 * _STEP**power for power in range(422))
_FIRST, _LAST = _FINE[0], len(_FINE) - 1
_BY_STEP = 1 / math.log(_STEP)


class Histogram:
    """How many values fell into each bucket, and their sum.

    Args:
        bounds: Upper ends of the buckets.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = BOUNDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def copy(self) -> Histogram:
        """One that grows no more."""
        made = Histogram(self.bounds)
        made.counts, made.total = list(self.counts), self.total
        return made


class Percentiles:
    """Values of which percentiles are wanted, to within 5 %."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}

    def add(self, value: float) -> None:
        """Count a value."""
        bucket = min(math.ceil(math.log(value / _FIRST) * _BY_STEP), _LAST) if value > _FIRST else 0
        self.counts[bucket] = self.counts.get(bucket, 0) + 1

    def merge(self, other: Percentiles) -> None:
        """Count all of another's."""
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count

    def at(self, share: float) -> float | None:
        """The value below which that share of them lies; None without any."""
        total = sum(self.counts.values())
        left = share * total
        for bucket in sorted(self.counts):
            left -= self.counts[bucket]
            if left <= 0:
                return _FINE[bucket]
        return None
