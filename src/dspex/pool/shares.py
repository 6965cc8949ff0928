"""How much of a pool one lane holds, so that one tenant cannot have it all."""

from __future__ import annotations

import math
from collections import Counter

from dspex.pool.work import Lane, Work


class Shares:
    """Running calls by lane, where there is a limit.

    Args:
        max_share: The largest part of the slots that one lane may hold; None is no limit.
    """

    def __init__(self, max_share: float | None) -> None:
        self._max_share = max_share
        self._held: Counter[Lane] = Counter()

    def left(self, work: Work, slots: int) -> bool:
        """Whether a call's lane may have one more of so many slots; it may always have one."""
        if self._max_share is None:
            return True
        return self._held[work.lane] < max(1, math.floor(self._max_share * slots))

    def take(self, work: Work) -> None:
        """A call begins."""
        if self._max_share is not None:
            self._held[work.lane] += 1

    def give_back(self, work: Work) -> None:
        """A worker is done with a call."""
        if self._max_share is not None:
            self._held[work.lane] -= 1
            if not self._held[work.lane]:
                del self._held[work.lane]
