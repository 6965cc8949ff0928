"""How many items are asked at once: as many as can run, fewer when the provider says that it is too much."""

from __future__ import annotations

import time
from collections.abc import Callable

# A batch that is told to slow down asks half as many at once, and one more for as many that end well.
_LESS = 0.5
# Seconds within which several refusals are one: they were all under way when the first came.
_ONE = 1.0
# Seconds to wait when nobody says how long.
_PAUSE = 1.0
_LONGEST_PAUSE = 60.0


class Window:
    """The items of a batch that may be under way.

    Args:
        most: Tells how many can run now.
        clock: Seconds that only go forward.
    """

    def __init__(self, most: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._size: float | None = None  # None is as many as can run
        self._slowed = -_ONE
        self._paused_until = 0.0

    @property
    def size(self) -> int:
        """How many may be under way."""
        most = max(1, self._most())
        return most if self._size is None else max(1, min(most, int(self._size)))

    @property
    def pause(self) -> float:
        """Seconds until another item may be asked."""
        return max(0.0, self._paused_until - self._clock())

    def succeeded(self) -> None:
        """An item has ended well."""
        if self._size is not None:
            self._size += 1 / self._size
            if self._size >= self._most():
                self._size = None

    def refused(self, retry_after: float | None) -> None:
        """The provider, or the pool, is asked too much."""
        now = self._clock()
        self._paused_until = max(self._paused_until, now + min(retry_after or _PAUSE, _LONGEST_PAUSE))
        if now - self._slowed >= _ONE:
            self._slowed = now
            self._size = max(1.0, self.size * _LESS)
