"""Bounds calls in time: in the queue, at their deadline, and when their caller has gone away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from dspex.errors import DspexError
from dspex.pool import endings
from dspex.pool.work import Done, Work
from dspex.settings import PoolOptions

# Seconds after a kill in which the death has to be noticed. A process that hangs in the kernel dies later,
# and its caller does not wait for that.
_KILL_TAKES = 1.0


class Ends(Protocol):
    """What ends calls: the pool."""

    name: str

    def leave_queue(self, work: Work, error: DspexError) -> None: ...

    def end(self, work: Work, outcome: Done | DspexError) -> None: ...

    def retry_after(self) -> float: ...


class Deadlines:
    """The timers of one pool's calls; each call has one at a time.

    At its deadline a call is cancelled by its worker's own clock. What has not ended ``grace`` seconds later
    does not stop by itself: its worker is ended, at once or when its neighbours are done.

    Args:
        pool: Ends calls.
        options: How long everything may take.
    """

    def __init__(self, pool: Ends, options: PoolOptions) -> None:
        self._pool = pool
        self._options = options
        self._loop = asyncio.get_running_loop()

    def arm(self, work: Work) -> None:
        """Set the timer for the nearer of the deadline and the longest wait for a first worker."""
        waits = [work.time_left()] if work.deadline is not None else []
        if self._options.queue_timeout is not None and not work.attempts:
            # A millisecond more, as loops may fire their timers a little early.
            waits.append(self._options.queue_timeout - work.age() + 0.001)
        self._set(work, min(waits) if waits else None, self._on_time)

    def caller_left(self, work: Work) -> None:
        """A running call was cancelled: it has its grace to stop."""
        self._grant_grace(work, "cancelled")

    def _set(self, work: Work, delay: float | None, callback: Callable[..., None], *more: object) -> None:
        if work.timer is not None:
            work.timer.cancel()
        work.timer = None if delay is None else self._loop.call_later(delay, callback, work, *more)

    def _on_time(self, work: Work) -> None:
        if work.ended:
            return
        longest = self._options.queue_timeout
        if work.overdue and work.worker is not None:
            self._grant_grace(work, "deadline")
        elif work.overdue:
            self._pool.leave_queue(work, work.timed_out(killed=False))
        elif longest is not None and not work.attempts and work.age() >= longest:
            late = endings.waited_too_long(self._pool.name, work, longest, self._pool.retry_after())
            self._pool.leave_queue(work, late)
        else:
            self.arm(work)

    def _grant_grace(self, work: Work, cause: str) -> None:
        assert work.worker is not None
        knocked = time.monotonic()
        work.worker.knock()
        self._set(work, self._options.grace, self._grace_over, cause, knocked)

    def _grace_over(self, work: Work, cause: str, knocked: float) -> None:
        worker = work.worker
        if worker is not None:
            worker.listen()
        if worker is None or work.worker is not worker:
            return  # it has ended, just now perhaps
        worker.condemn(cause, self._options.drain_limit, work, knocked=knocked)
        if not worker.killed:
            # Its neighbours have time to end well. Its own caller does not wait for them.
            self._pool.end(work, work.timed_out(killed=True, drains=True))
        else:
            self._set(work, _KILL_TAKES, self._give_up)

    def _give_up(self, work: Work) -> None:
        self._pool.end(work, work.timed_out(killed=True))
