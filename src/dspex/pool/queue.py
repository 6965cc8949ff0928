"""The bounded queue before the workers."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable

from dspex.pool.work import Work

# Ended calls that may stay in the lines, with their arguments, before they are tidied.
_SLACK = 16


class Queue:
    """Calls that wait for a slot or for a permit of their LM.

    Each gate has a line of its own, first come first served, and the lines take turns: calls whose LM may
    not be asked now keep nobody else waiting. A call that ended while it waited (its deadline passed, its
    caller left) is taken out of the count at once, and out of its line when its turn comes or when such
    calls are many.

    Args:
        limit: How many may wait.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lines: OrderedDict[int, deque[Work]] = OrderedDict()
        self._waiting = 0
        self._standing = 0  # in the lines, the ended ones included

    def __len__(self) -> int:
        return self._waiting

    @property
    def full(self) -> bool:
        """Whether one more would be too many."""
        return self._waiting >= self._limit

    def has_line(self, work: Work) -> bool:
        """Whether others wait for what this call needs."""
        return self._first(work.lane) is not None

    def append(self, work: Work) -> None:
        """Put a new call at the end of its line."""
        self._lines.setdefault(work.lane, deque()).append(work)
        self._waiting += 1
        self._standing += 1

    def put_back(self, work: Work) -> None:
        """Put a call whose worker was lost at the front: it has waited already, so no limit applies."""
        self._lines.setdefault(work.lane, deque()).appendleft(work)
        self._waiting += 1
        self._standing += 1

    def leave(self) -> None:
        """Take note that one of those who wait has ended."""
        self._waiting -= 1
        if self._standing > 2 * self._waiting + _SLACK:
            for lane, line in list(self._lines.items()):
                kept = self._lines[lane] = deque(work for work in line if not work.ended)
                if not kept:
                    del self._lines[lane]
            self._standing = self._waiting

    def pop(self, may_begin: Callable[[Work], bool]) -> Work | None:
        """The next call that may begin.

        Args:
            may_begin: Asked of the first in each line in turn; a call for which it says yes is taken out.
        """
        for lane in list(self._lines):
            work = self._first(lane)
            if work is not None and may_begin(work):
                self._lines[lane].popleft()
                self._standing -= 1
                self._waiting -= 1
                self._lines.move_to_end(lane)
                return work
        return None

    def waiting_for_slot(self) -> int:
        """How many could begin if a slot were free; those whose LM may not be asked now could not."""
        return sum(
            sum(not work.ended for work in line)
            for line in self._lines.values()
            if not any(work.waits_for_permit for work in line if not work.ended)
        )

    def _first(self, lane: int) -> Work | None:
        """The first in a line who still waits; a line where nobody does is taken away."""
        line = self._lines.get(lane)
        if line is None:
            return None
        while line and line[0].ended:
            line.popleft()
            self._standing -= 1
        if not line:
            del self._lines[lane]
            return None
        return line[0]

    def drain(self) -> list[Work]:
        """All that wait, a line after the other; the queue is empty afterwards."""
        waiting = [work for line in self._lines.values() for work in line if not work.ended]
        self._lines.clear()
        self._waiting = self._standing = 0
        return waiting
