"""Whether workers start at all, and how long to wait before the next one is tried."""

from __future__ import annotations

import random

from dspex.errors import PoolUnhealthy

# Failures in a row after which the pool says that it is broken, when no worker is there.
_MOST = 3.0
# A death in the middle of a call counts half: the call may be to blame.
_IN_A_CALL = 0.5
_FIRST_WAIT = 0.1
_LONGEST_WAIT = 10.0


class Health:
    """Counts deaths of workers that had answered nothing; any answer begins anew.

    Attributes:
        error: What calls are refused with; None when the pool is well.
        last_cause: Why the last of them died.
    """

    def __init__(self) -> None:
        self.error: PoolUnhealthy | None = None
        self.last_cause = ""
        self._failures = 0.0

    @property
    def failures(self) -> int:
        """Deaths in a row."""
        return int(self._failures)

    def pause(self) -> float:
        """Seconds to wait before the next start: none at first, then doubling, with jitter."""
        if self._failures <= 1:
            return 0.0
        wait: float = min(_FIRST_WAIT * 2 ** (self.failures - 1), _LONGEST_WAIT)
        return wait * random.uniform(0.5, 1.0)

    def answered(self) -> None:
        """A worker has answered a call."""
        self._failures = 0.0

    def failed(self, cause: str, *, in_a_call: bool = False, hopeless: bool = False) -> None:
        """A start has failed, or a worker that had answered nothing has died.

        Args:
            cause: Why.
            in_a_call: It was running one.
            hopeless: The next start would fail, too.
        """
        self.last_cause = cause
        self._failures += _IN_A_CALL if in_a_call else 1.0
        if hopeless:
            self._failures = max(self._failures, _MOST)

    @property
    def looping(self) -> bool:
        """Whether workers die faster than they can be of use."""
        return self._failures >= _MOST

    def give_up(self) -> bool:
        """Refuse calls from now on; gives whether that is news."""
        news = self.error is None
        self.error = PoolUnhealthy(
            f"workers do not start, and it is tried again until they do; the last cause: {self.last_cause}",
            details={"cause": self.last_cause, "failures": self.failures},
        )
        return news

    def recovered(self) -> bool:
        """A worker lives; gives whether that is news. One more failure is one too many again."""
        news, self.error = self.error is not None, None
        if news:
            self._failures = _MOST - 1
        return news
