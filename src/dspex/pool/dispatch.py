"""From the queue to the workers: who begins, when, and where."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from dspex.errors import DspexError, PythonTimeout, WorkerLost
from dspex.pool import endings
from dspex.pool.handle import WorkerHandle
from dspex.pool.queue import Queue
from dspex.pool.rate import Rate
from dspex.pool.scheduler import choose
from dspex.pool.shares import Shares
from dspex.pool.supervise import Supervisor
from dspex.pool.work import Work
from dspex.settings import PoolOptions
from dspex.wire.payloads import size_of


class Dispatch:
    """The waiting calls of one pool, and their way to its workers.

    Args:
        options: How the pool is run.
        slots: Calls that one worker runs at once.
        supervisor: Has the workers.
        end: Ends a call that could not be sent.
    """

    def __init__(
        self,
        options: PoolOptions,
        slots: int,
        supervisor: Supervisor,
        end: Callable[[Work, DspexError], None],
    ) -> None:
        self._max_queue = options.max_queue
        self._max_share = options.max_share
        self._slots = slots
        self._supervisor = supervisor
        self._end = end
        self._queue = Queue()
        self._shares = Shares(options.max_share)
        self._rate = Rate(supervisor.most * slots)
        self._pumping = False

    def __len__(self) -> int:
        return len(self._queue)

    def is_full(self, work: Work) -> bool:
        """Whether this call would be one too many, of all that wait or of its lane's share of them."""
        if self._max_share is not None:
            share = max(1, math.floor(self._max_share * self._max_queue))
            if self._queue.length(work) >= share:
                return True
        most = self._max_queue
        if self._supervisor.one_call_each:
            # Each call waits until its worker is there; those that are on their way to one are not queued.
            busy = sum(len(worker.in_flight) for worker in self._supervisor.workers.values())
            most += max(0, self._supervisor.most - busy)
        return len(self._queue) >= most

    def waiting(self) -> int:
        """How many calls wait for nothing but a slot."""
        return self._queue.waiting_for_slot()

    def retry_after(self) -> float:
        """Seconds until half of those that wait have begun, from how fast calls ended lately.

        Then there is room, and the workers have something to do until everybody has come back.
        """
        return self._rate.wait(len(self._queue) // 2 + 1, time.monotonic())

    # Into the queue, and out of it without having begun

    def begins(self, work: Work) -> bool:
        """Whether a new call may begin now; if so, it has its permit, and ``start`` is next."""
        return (
            not self._queue.blocks(work)
            and self._has_free_worker()
            and self._has_share(work)
            and self._take_seat(work)
        )

    def wait(self, work: Work) -> None:
        """Have a new call wait at the end of its line."""
        self._queue.append(work)
        self.pump()

    def put_back(self, work: Work) -> None:
        """Have a call that has begun before wait at the front of its line."""
        self._queue.put_back(work)
        self.pump()

    def leave(self, work: Work) -> None:
        """Take note that a call has ended, which may have waited."""
        self._queue.leave(work)

    def all_waiting(self) -> list[Work]:
        """All that wait; they stay."""
        return self._queue.all()

    def drain(self) -> list[Work]:
        """All that wait; nobody does afterwards."""
        return self._queue.drain()

    # To a worker, and away from it

    def _has_free_worker(self) -> bool:
        return any(worker.free for worker in self._supervisor.workers.values())

    def _has_share(self, work: Work) -> bool:
        workers = self._supervisor.most if self._supervisor.one_call_each else self._supervisor.wanted
        return self._shares.left(work, workers * self._slots)

    @staticmethod
    def _take_seat(work: Work) -> bool:
        """Whether the call's first LM request may be sent; if so, the call has the permit."""
        if work.gate is not None:
            work.seat = work.gate.seat(size_of(work.args))
            return work.seat is not None
        return True

    def start(self, work: Work) -> None:
        """Give a call that has its seat to a worker, of which one is free."""
        worker = choose(self._supervisor.workers.values(), work)
        seat, work.seat = work.seat, None
        assert worker is not None
        self._shares.take(work)
        self._rate.began(time.monotonic())
        try:
            worker.start(work, seat)
        except Exception as error:  # noqa: BLE001 (too large, or text that is no UTF-8: it was not sent)
            worker.not_started(work)
            refusal = endings.not_sent(error)
            self.stopped(work, refusal.code)
            self._end(work, refusal)

    def stopped(self, work: Work, error: str | None = None) -> None:
        """No worker runs a call any more that one ran; with the code of why, if it has not answered."""
        work.worker = None
        if work.trace is not None:
            work.trace.stopped(error)
        work.stop_callbacks()
        self._shares.give_back(work)
        self._rate.ended(time.monotonic())

    def pump(self) -> None:
        """Give waiting calls to workers while there are both; then have more workers if calls are left."""
        if self._pumping or not len(self._queue) or self._supervisor.unhealthy is not None:
            return  # by something that it did itself; it goes on after that
        self._pumping = True
        try:
            while len(self._queue) and self._has_free_worker():
                work = self._queue.pop(self._has_share, self._take_seat)
                if work is None:
                    break  # their LM or their share: that of more workers is larger
                self.start(work)
        finally:
            self._pumping = False
        if len(self._queue) and self._supervisor.grow():
            self.pump()  # a lane's share has grown with the pool

    def lost(self, worker: WorkerHandle) -> list[Work]:
        """Take its calls from a dead worker."""
        works = list(worker.in_flight.values())
        worker.in_flight.clear()
        for work in works:
            self.stopped(work, PythonTimeout.code if work.overdue else WorkerLost.code)
        return works
