"""A pool of workers on this machine: admits calls, bounds them in time, and gives each exactly one end."""

from __future__ import annotations

import asyncio
from collections import Counter

import msgspec

from dspex.errors import DspexError, PoolClosed, PythonTimeout, from_wire
from dspex.lm.gate import Gate, Gates
from dspex.pool import endings
from dspex.pool.handle import WorkerHandle
from dspex.pool.queue import Queue
from dspex.pool.scheduler import choose
from dspex.pool.stats import PoolStats, WorkerStats
from dspex.pool.supervise import Supervisor
from dspex.pool.work import Done, Work
from dspex.pool.zygote_client import Forkling, Zygote
from dspex.process import limits
from dspex.settings import PoolOptions, Settings
from dspex.wire.blobs import Blob
from dspex.wire.messages import ENVELOPE, Fault, Result, WorkerOptions
from dspex.wire.payloads import discard, size_of

# Weight of the newest call in the running mean of how long one takes, for retry_after.
_NEWEST = 0.1


class LocalPool:
    """Workers, the queue before them, and the rules that hold for every call.

    It belongs to the event loop on which it is made.

    Args:
        name: Its name, for errors and logs.
        options: How it is run.
        settings: What holds for the whole runtime.
        zygote: Where its workers come from.
        gates: The gates of the runtime's LMs.
    """

    def __init__(
        self,
        name: str,
        options: PoolOptions,
        settings: Settings,
        zygote: Zygote,
        gates: Gates,
    ) -> None:
        self.name = name
        self._options = options
        self._max_result = settings.max_result
        # Where blobs cannot be had, all of a payload goes through the channel.
        self._limit = max(settings.max_payload, settings.max_result) + ENVELOPE
        self._gates = gates
        gates.on_room.append(self._on_room)
        gates.on_watch.append(self._on_watch)
        self._queue = Queue(options.max_queue)
        self._calls = 0
        self._counters: Counter[str] = Counter()
        self._mean_seconds = 0.0
        self._pumping = False
        self._closed = False
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._supervisor = Supervisor(
            options.workers or limits.cores(),
            zygote,
            WorkerOptions(
                options.slots, list(settings.allow_modules), settings.max_payload, settings.max_result
            ),
            self._make_handle,
            self._on_exit,
            self._on_change,
        )

    def start(self) -> None:
        """Start its workers; returns at once."""
        self._supervisor.start()

    async def ready(self) -> None:
        """Wait until a worker is ready.

        Raises:
            PoolUnhealthy: Workers do not start.
        """
        while not any(worker.was_ready for worker in self._supervisor.workers.values()):
            if self._closed:
                raise PoolClosed(f"the pool {self.name!r} was closed while it started")
            if self._supervisor.unhealthy is not None:
                raise endings.unhealthy_again(self._supervisor.unhealthy)
            self._changed.clear()
            await self._changed.wait()

    async def execute(self, work: Work) -> Done:
        """Run a call to its end; its arguments stay the caller's, who lets go of them afterwards.

        When the waiting task is cancelled, the work is stopped.

        Raises:
            DspexError: Whatever the call ended with.
        """
        work.future = self._loop.create_future()
        self._calls += 1
        try:
            self._admit(work)
        except DspexError as error:
            self._counters[error.code] += 1
            raise
        try:
            return await work.future
        except asyncio.CancelledError:
            if work.future.cancelled():
                self._abandon(work)
            elif work.future.exception() is None:  # it was answered in the same turn
                discard(work.future.result().value)
            raise

    def stats(self) -> PoolStats:
        """How it stands."""
        return PoolStats(
            [
                WorkerStats(w.number, w.pid, w.state, w.rss, len(w.in_flight), w.done)
                for w in list(self._supervisor.workers.values())  # a copy: any thread may ask
            ],
            len(self._queue),
            self._calls,
            {code: count for code, count in self._counters.items() if code != "late_replies"},
            dict(self._supervisor.restarts),
            self._counters["late_replies"],
        )

    async def drain(self) -> None:
        """Take no more calls, and wait until those that were taken have ended."""
        self._closed = True
        while self.stats().unfinished:
            self._changed.clear()
            await self._changed.wait()

    async def aclose(self) -> None:
        """Fail what waits or runs with ``pool_closed``, and end the workers."""
        self._closed = True
        self._gates.on_room.remove(self._on_room)
        self._gates.on_watch.remove(self._on_watch)
        self._changed.set()
        for work in self._queue.drain():
            self._end(work, endings.closed(self.name))
        for worker in self._supervisor.workers.values():
            for work in worker.in_flight.values():
                self._end(work, endings.closed(self.name, while_running=True))
        await self._supervisor.close(self._options.grace)

    # Into the queue and out of it

    def _admit(self, work: Work) -> None:
        if self._closed:
            raise PoolClosed(f"the pool {self.name!r} is closed; open another runtime")
        if work.overdue:
            raise work.timed_out(killed=False)
        if self._supervisor.unhealthy is not None:
            raise endings.unhealthy_again(self._supervisor.unhealthy)
        begins = not self._queue.has_line(work) and self._has_free_worker() and self._take_seat(work)
        if not begins and self._queue.full:
            raise endings.saturated(self.name, len(self._queue), self._retry_after())
        self._arm(work)
        if begins:
            self._start(work)
        else:
            self._queue.append(work)

    def _arm(self, work: Work) -> None:
        """Set the timer for the nearer of the deadline and the longest wait for a first worker."""
        waits = [work.time_left()] if work.deadline is not None else []
        if self._options.queue_timeout is not None and not work.attempts:
            # A millisecond more, as loops may fire their timers a little early.
            waits.append(self._options.queue_timeout - work.age() + 0.001)
        if waits:
            work.timer = self._loop.call_later(min(waits), self._on_time, work)

    def _on_time(self, work: Work) -> None:
        if work.ended:
            return
        longest = self._options.queue_timeout
        if work.overdue and work.worker is not None:
            work.timer = self._loop.call_later(self._options.grace, self._kill_for, work, "deadline")
        elif work.overdue:
            self._leave_queue(work, work.timed_out(killed=False))
        elif longest is not None and not work.attempts and work.age() >= longest:
            late = endings.waited_too_long(self.name, work, longest, self._retry_after())
            self._leave_queue(work, late)
        else:
            self._arm(work)

    def _leave_queue(self, work: Work, error: DspexError) -> None:
        # Ended first: the queue tells those that wait by that.
        self._end(work, error)
        self._queue.leave()

    def _kill_for(self, work: Work, reason: str) -> None:
        """The call has not stopped within its grace: only the end of its process stops it."""
        if work.worker is not None:
            work.worker.kill(reason)

    def _has_free_worker(self) -> bool:
        return any(worker.free for worker in self._supervisor.workers.values())

    def _take_seat(self, work: Work) -> bool:
        """Whether the call's first LM request may be sent; if so, the call has the permit."""
        if work.gate is not None:
            work.seat = work.gate.seat(size_of(work.args))
            return work.seat is not None
        return True

    def _start(self, work: Work) -> None:
        """Give a call that has its seat to a worker, of which one is free."""
        worker = choose(self._supervisor.workers.values(), work)
        seat, work.seat = work.seat, None
        assert worker is not None
        try:
            worker.start(work, seat)
        except Exception as error:  # noqa: BLE001 (too large, or text that is no UTF-8: it was not sent)
            worker.not_started(work)
            self._end(work, endings.not_sent(error))

    def _pump(self) -> None:
        """Give waiting calls to workers while there are both."""
        if self._pumping:
            return  # by something that it did itself; it goes on after that
        self._pumping = True
        try:
            while len(self._queue) and self._has_free_worker():
                work = self._queue.pop(self._take_seat)
                if work is None:
                    return
                self._start(work)
        finally:
            self._pumping = False

    def _on_room(self) -> None:
        if len(self._queue):
            self._pump()

    def _on_watch(self, gate: Gate, watched: bool) -> None:
        for worker in self._supervisor.workers.values():
            worker.watch(gate.number, on=watched)

    # The ends of a call

    def _end(self, work: Work, outcome: Done | DspexError) -> None:
        """Give a call its one end."""
        if work.timer is not None:
            work.timer.cancel()
        if work.abandoned or work.future.done():
            if isinstance(outcome, Done):
                discard(outcome.value)
            return
        self._changed.set()
        if isinstance(outcome, Done):
            self._counters["ok"] += 1
            work.future.set_result(outcome)
        else:
            self._counters[outcome.code] += 1
            if work.requests:  # what a failed call has cost all the same
                outcome.details.setdefault("requests", msgspec.to_builtins(work.requests))
            work.future.set_exception(outcome)

    def _abandon(self, work: Work) -> None:
        """The caller has gone away: stop the work and free its slot."""
        self._counters["cancelled"] += 1
        self._changed.set()
        work.abandoned = True
        if work.timer is not None:
            work.timer.cancel()
        if work.worker is None:
            self._queue.leave()
        else:
            work.worker.cancel(work)
            work.timer = self._loop.call_later(self._options.grace, self._kill_for, work, "cancelled")

    def _on_answer(
        self, worker: WorkerHandle, work: Work | None, answer: Result | Fault, blob: Blob | None
    ) -> None:
        self._supervisor.answered()
        if work is None:
            self._counters["late_replies"] += 1
            if blob is not None:
                blob.close()
            return
        work.worker = None
        if isinstance(answer, Result):
            queued = (work.started or work.admitted) - work.admitted
            value = answer.value if blob is None else blob
            self._end(work, Done(value, work.requests, worker.number, work.attempts, queued, answer.seconds))
            self._mean_seconds += _NEWEST * (answer.seconds - self._mean_seconds)
        else:
            error = from_wire(answer.error)
            if isinstance(error, PythonTimeout) or work.overdue:
                error = work.timed_out(killed=False)
            self._end(work, error)
        if len(self._queue):
            self._pump()

    def _retry_after(self) -> float:
        """Seconds until about one call has left the queue, from how long calls took lately."""
        slots = self._options.slots * max(1, len(self._supervisor.workers))
        return round(max(0.05, self._mean_seconds * (len(self._queue) + 1) / slots), 3)

    # Workers come and go

    def _make_handle(self, forkling: Forkling) -> WorkerHandle:
        return WorkerHandle(
            forkling,
            slots=self._options.slots,
            limit=self._limit,
            max_result=self._max_result,
            gates=self._gates,
            on_ready=self._supervisor.ready,
            on_answer=self._on_answer,
            on_death=self._on_death,
            on_drained=self._pump,
        )

    def _on_exit(self, number: int, status: int | None) -> None:
        worker = self._supervisor.workers.get(number)
        if worker is not None:
            worker.buried(status)

    def _on_change(self) -> None:
        self._changed.set()
        if self._supervisor.unhealthy is not None:
            for work in self._queue.drain():
                self._end(work, endings.unhealthy_again(self._supervisor.unhealthy))
        self._pump()

    def _on_death(self, worker: WorkerHandle, status: int | None) -> None:
        cause = endings.cause_of_death(worker, status)
        lost = list(worker.in_flight.values())
        worker.in_flight.clear()
        self._supervisor.lost(worker, cause, was_ready=worker.was_ready)
        for work in reversed(lost):  # each goes to the front, so the first comes to lie first
            work.worker = None
            self._settle_lost(work, worker, cause)
        self._pump()

    def _settle_lost(self, work: Work, worker: WorkerHandle, cause: str) -> None:
        innocent = worker.killed_for in {"deadline", "cancelled"}
        if work.overdue or work.abandoned:
            self._end(work, work.timed_out(killed=True))
        elif self._closed:
            self._end(work, endings.closed(self.name, while_running=True))
        elif work.repeatable and (innocent or work.reruns < self._options.max_reruns):
            work.reruns += not innocent
            work.started = None
            self._queue.put_back(work)
        else:
            self._end(work, endings.lost(worker, work, cause))
