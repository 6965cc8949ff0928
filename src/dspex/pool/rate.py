"""How fast calls end, measured, to say when to come again."""

from __future__ import annotations

from collections import deque

# Ends that are looked at, for each slot and at least: calls that began together end together, and what is
# looked at has to be longer than such a wave.
_PER_SLOT = 4
_FEWEST = 64
_SHORTEST = 0.05
_LONGEST = 60.0
# What is said before anything was measured.
_GUESS = 1.0


class Rate:
    """The rate at which a pool's calls end, since it last had nothing to do. Times are monotonic seconds.

    Args:
        slots: How many calls run at once at most.
    """

    def __init__(self, slots: int) -> None:
        self._running = 0
        self._ends: deque[float] = deque(maxlen=max(_FEWEST, _PER_SLOT * slots))
        self._since = 0.0
        self._last: float | None = None

    def began(self, now: float) -> None:
        """A call begins to run."""
        if not self._running:
            # What happened before the pause says nothing of how long calls take: nobody was there.
            self._last = self._seconds_per_end(self._ends[-1]) if self._ends else self._last
            self._ends.clear()
            self._since = now
        self._running += 1

    def ended(self, now: float) -> None:
        """A call runs no more."""
        self._running -= 1
        self._ends.append(now)

    def _seconds_per_end(self, now: float) -> float:
        if len(self._ends) == self._ends.maxlen:
            return (now - self._ends[0]) / (len(self._ends) - 1)
        return (now - self._since) / len(self._ends)

    def wait(self, position: int, now: float) -> float:
        """Seconds until about so many calls have ended, from 0.05 to 60.

        Args:
            position: How many.
            now: The monotonic second.
        """
        if self._ends:
            each = self._seconds_per_end(now)
        elif self._running:
            # None has ended for so long, so the next one will take about as long again.
            each = max(now - self._since, self._last if self._last is not None else _GUESS)
        else:
            each = self._last if self._last is not None else _GUESS
        return round(min(max(position * each, _SHORTEST), _LONGEST), 3)
