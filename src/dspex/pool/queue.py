"""The bounded queue before the workers."""

from __future__ import annotations

from collections import deque

from dspex.pool.work import Work

# Ended calls that may stay in the line, with their arguments, before it is tidied.
_SLACK = 16


class Queue:
    """Calls that wait for a slot, first come first served.

    A call that ended while it waited (its deadline passed, its caller left) is taken out of the count at
    once, and out of the line when its turn comes or when such calls are many.

    Args:
        limit: How many may wait.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._line: deque[Work] = deque()
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    @property
    def full(self) -> bool:
        """Whether one more would be too many."""
        return self._waiting >= self._limit

    def append(self, work: Work) -> None:
        """Put a new call at the end."""
        self._line.append(work)
        self._waiting += 1

    def put_back(self, work: Work) -> None:
        """Put a call whose worker was lost at the front: it has waited already, so no limit applies."""
        self._line.appendleft(work)
        self._waiting += 1

    def leave(self) -> None:
        """Take note that one of those who wait has ended."""
        self._waiting -= 1
        if len(self._line) > 2 * self._waiting + _SLACK:
            self._line = deque(work for work in self._line if not work.ended)

    def pop(self) -> Work | None:
        """The next call that still waits."""
        while self._line:
            work = self._line.popleft()
            if not work.ended:
                self._waiting -= 1
                return work
        return None

    def drain(self) -> list[Work]:
        """All that wait, in order; the queue is empty afterwards."""
        waiting = [work for work in self._line if not work.ended]
        self._line.clear()
        self._waiting = 0
        return waiting
