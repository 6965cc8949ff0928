"""A pool of workers on this machine: admits calls, bounds them in time, and gives each exactly one end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec

from dspex.errors import DspexError, PoolClosed, PythonTimeout, from_wire
from dspex.lm.gate import Gate, Gates
from dspex.pool import endings
from dspex.pool.deadlines import Deadlines
from dspex.pool.handle import Listener, WorkerHandle
from dspex.pool.lifespan import Lifespan, most_data
from dspex.pool.losses import Verdict, judge
from dspex.pool.queue import Queue
from dspex.pool.rate import Rate
from dspex.pool.scheduler import choose
from dspex.pool.shares import Shares
from dspex.pool.stats import PoolStats, WorkerStats
from dspex.pool.supervise import Supervisor
from dspex.pool.tally import Tally
from dspex.pool.work import Done, Work
from dspex.pool.zygote_client import Forkling, Zygote
from dspex.process import limits
from dspex.settings import PoolOptions, Settings
from dspex.telemetry.events import Event, PoolClosing, WorkerDraining
from dspex.wire.blobs import Blob
from dspex.wire.messages import ENVELOPE, Fault, Result, WorkerOptions
from dspex.wire.payloads import discard, size_of


class LocalPool:
    """Workers, the queue before them, and the rules that hold for every call.

    It belongs to the event loop on which it is made.

    Args:
        name: Its name, for errors and logs.
        options: How it is run.
        settings: What holds for the whole runtime.
        zygote: Where its workers come from.
        gates: The gates of the runtime's LMs.
        emit: Told of every change of state.
        companion: Gives the pool where a call that may have killed its worker runs alone; None is this one.
    """

    def __init__(
        self,
        name: str,
        options: PoolOptions,
        settings: Settings,
        zygote: Zygote,
        gates: Gates,
        emit: Callable[[Event], None],
        companion: Callable[[], LocalPool] | None = None,
    ) -> None:
        self.name = name
        self._options = options
        self._slots = 1 if options.isolation == "call" else options.slots
        self._max_result = settings.max_result
        # Where blobs cannot be had, all of a payload goes through the channel.
        self._limit = max(settings.max_payload, settings.max_result) + ENVELOPE
        self._gates = gates
        gates.on_room.append(self._on_room)
        gates.on_watch.append(self._on_watch)
        self._emit = emit
        self._companion = companion
        self._queue = Queue()
        self._shares = Shares(options.max_share)
        self._deadlines = Deadlines(self, options)
        self._tally = Tally()
        self._pumping = False
        self._refusing = False
        self._closed = False
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        worker_options = WorkerOptions(
            self._slots,
            list(settings.allow_modules),
            settings.max_payload,
            settings.max_result,
            isolated=options.isolation == "call",
            max_memory=most_data(options.max_rss, self._slots),
        )
        size = options.size(limits.cores())
        self._rate = Rate(size[1] * self._slots)
        self._supervisor = Supervisor(self, options, size, zygote, worker_options, emit)
        self._listener = Listener(
            ready=self._supervisor.on_ready,
            answered=self._on_answer,
            draining=self._on_draining,
            dead=self._on_death,
            writable=self._pump,
        )

    def start(self) -> None:
        """Start its workers; returns at once."""
        self._supervisor.start()

    async def ready(self) -> None:
        """Wait until a worker is ready; a pool that keeps none is ready at once.

        Raises:
            PoolUnhealthy: Workers do not start.
        """
        while self._supervisor.wanted and not any(w.was_ready for w in self._supervisor.workers.values()):
            if self._refusing:
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
        work.pool, work.tally = self, self._tally
        work.reruns_left = self._options.max_reruns
        self._tally.begin()
        try:
            self._admit(work)
        except DspexError as error:
            self._tally.end(error.code)
            raise
        try:
            return await work.future
        except asyncio.CancelledError:
            if work.future.cancelled():
                work.pool._abandon(work)
            elif work.future.exception() is None:  # it was answered in the same turn
                discard(work.future.result().value)
            raise

    def stats(self) -> PoolStats:
        """How it stands."""
        unhealthy = self._supervisor.unhealthy
        return PoolStats(
            [
                WorkerStats(w.number, w.pid, w.state, w.rss, len(w.in_flight), w.done)
                for w in list(self._supervisor.workers.values())  # a copy: any thread may ask
            ],
            len(self._queue),
            self._tally.calls,
            dict(self._tally.ends),
            dict(self._supervisor.restarts),
            self._tally.late_replies,
            self._supervisor.wanted,
            None if unhealthy is None else str(unhealthy.details["cause"]),
        )

    async def drain(self) -> None:
        """Take no more calls, and wait until those that were taken have ended."""
        self.refuse(drain=True)
        await self._tally.all_ended()

    def refuse(self, *, drain: bool) -> None:
        """Take no more calls but those of other pools that have to run again."""
        if not self._refusing:
            self._refusing = True
            unfinished = self.stats().unfinished
            self._emit(PoolClosing(pool=self.name, unfinished=unfinished, drain=drain))
        self._changed.set()

    async def aclose(self) -> None:
        """Fail what waits or runs with ``pool_closed``, and end the workers."""
        self.refuse(drain=False)
        self._closed = True
        self._gates.on_room.remove(self._on_room)
        self._gates.on_watch.remove(self._on_watch)
        for work in self._queue.drain():
            self.end(work, endings.closed(self.name))
        for worker in self._supervisor.workers.values():
            for work in worker.in_flight.values():
                self.end(work, endings.closed(self.name, while_running=True))
        await self._supervisor.close(self._options.grace)

    # Into the queue and out of it

    def _admit(self, work: Work) -> None:
        if self._refusing:
            raise PoolClosed(f"the pool {self.name!r} is closed; open another runtime")
        if work.overdue:
            raise work.timed_out(killed=False)
        if self._supervisor.unhealthy is not None:
            raise endings.unhealthy_again(self._supervisor.unhealthy)
        begins = (
            not self._queue.blocks(work)
            and self._has_free_worker()
            and self._has_share(work)
            and self._take_seat(work)
        )
        if not begins and self._is_full():
            raise endings.saturated(self.name, len(self._queue), self.retry_after())
        self._deadlines.arm(work)
        if begins:
            self._start(work)
        else:
            self._queue.append(work)
            self._pump()

    def _is_full(self) -> bool:
        most = self._options.max_queue
        if self._supervisor.one_call_each:
            # Each call waits until its worker is there; those that are on their way to one are not queued.
            busy = sum(len(worker.in_flight) for worker in self._supervisor.workers.values())
            most += max(0, self._supervisor.most - busy)
        return len(self._queue) >= most

    def adopt(self, work: Work) -> None:
        """Take over a call that another pool has admitted; it goes before those that wait here."""
        work.pool = self
        if self._closed:
            self.end(work, endings.closed(self.name, while_running=True))
        elif self._supervisor.unhealthy is not None:
            self.end(work, endings.unhealthy_again(self._supervisor.unhealthy))
        else:
            self._put_back(work)

    def _put_back(self, work: Work) -> None:
        work.started = None
        self._deadlines.arm(work)
        self._queue.put_back(work)
        self._pump()

    def waiting(self) -> int:
        """How many calls wait for nothing but a slot."""
        return self._queue.waiting_for_slot()

    def _want_workers(self) -> None:
        if len(self._queue) and not self._closed:
            self._supervisor.grow()

    def leave_queue(self, work: Work, error: DspexError) -> None:
        """End a call that waits."""
        # Ended first: the queue tells those that wait by that.
        self.end(work, error)
        self._queue.leave()

    def _has_free_worker(self) -> bool:
        return any(worker.free for worker in self._supervisor.workers.values())

    def _has_share(self, work: Work) -> bool:
        workers = self._supervisor.most if self._supervisor.one_call_each else self._supervisor.wanted
        return self._shares.left(work, workers * self._slots)

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
        self._shares.take(work)
        self._rate.began(time.monotonic())
        try:
            worker.start(work, seat)
        except Exception as error:  # noqa: BLE001 (too large, or text that is no UTF-8: it was not sent)
            worker.not_started(work)
            self._stopped(work)
            self.end(work, endings.not_sent(error))

    def _stopped(self, work: Work) -> None:
        """No worker runs a call any more that one ran."""
        work.worker = None
        self._shares.give_back(work)
        self._rate.ended(time.monotonic())

    def _pump(self) -> None:
        """Give waiting calls to workers while there are both."""
        if self._pumping or self._supervisor.unhealthy is not None:
            return  # by something that it did itself; it goes on after that
        self._pumping = True
        try:
            while len(self._queue) and self._has_free_worker():
                work = self._queue.pop(self._has_share, self._take_seat)
                if work is None:
                    return
                self._start(work)
        finally:
            self._pumping = False
        self._want_workers()

    def _on_room(self) -> None:
        if len(self._queue):
            self._pump()

    def _on_watch(self, gate: Gate, watched: bool) -> None:
        for worker in self._supervisor.workers.values():
            worker.watch(gate.number, on=watched)

    # The ends of a call

    def end(self, work: Work, outcome: Done | DspexError) -> None:
        """Give a call its one end; one that has it already keeps it."""
        if work.timer is not None:
            work.timer.cancel()
        if work.ended:
            if isinstance(outcome, Done):
                discard(outcome.value)
            return
        if isinstance(outcome, Done):
            work.tally.end("ok")
            work.future.set_result(outcome)
        else:
            work.tally.end(outcome.code)
            if work.requests:  # what a failed call has cost all the same
                outcome.details.setdefault("requests", msgspec.to_builtins(work.requests))
            work.future.set_exception(outcome)

    def _abandon(self, work: Work) -> None:
        """The caller has gone away: stop the work and free its slot."""
        work.tally.end("cancelled")
        if work.timer is not None:
            work.timer.cancel()
        if work.worker is None:
            self._queue.leave()
        else:
            work.worker.cancel(work)
            self._deadlines.caller_left(work)

    def _on_answer(
        self, worker: WorkerHandle, work: Work | None, answer: Result | Fault, blob: Blob | None
    ) -> None:
        self._supervisor.answered(worker)
        if work is None:
            self._tally.late_replies += 1
            if blob is not None:
                blob.close()
            return
        self._stopped(work)
        if isinstance(answer, Result):
            queued = (work.started or work.admitted) - work.admitted
            value = answer.value if blob is None else blob
            self.end(work, Done(value, work.requests, worker.number, work.attempts, queued, answer.seconds))
            if work.command == "shutdown":
                worker.drain("shutdown")
        else:
            error = from_wire(answer.error)
            if isinstance(error, PythonTimeout) or work.overdue:
                error = work.timed_out(killed=False)
            self.end(work, error)
        if len(self._queue):
            self._pump()

    def retry_after(self) -> float:
        """Seconds until half of those that wait have begun, from how fast calls ended lately.

        Then there is room, and the workers have something to do until everybody has come back.
        """
        return self._rate.wait(len(self._queue) // 2 + 1, time.monotonic())

    # Workers come and go

    def make_handle(self, forkling: Forkling) -> WorkerHandle:
        """The view of a worker that was just forked."""
        return WorkerHandle(
            forkling,
            slots=self._slots,
            limit=self._limit,
            max_result=self._max_result,
            gates=self._gates,
            lifespan=Lifespan.drawn(self._options),
            listener=self._listener,
        )

    def on_exit(self, number: int, status: int | None) -> None:
        """The zygote has buried a worker."""
        worker = self._supervisor.workers.get(number)
        if worker is not None:
            worker.buried(status)

    def on_change(self) -> None:
        """A worker has become ready, or the pool unhealthy."""
        self._changed.set()
        if self._supervisor.unhealthy is not None:
            for work in self._queue.drain():
                self.end(work, endings.unhealthy_again(self._supervisor.unhealthy))
        self._pump()

    def _on_draining(self, worker: WorkerHandle) -> None:
        self._emit(
            WorkerDraining(
                pool=self.name,
                worker=worker.number,
                pid=worker.pid,
                cause=worker.cause or "",
                in_flight=worker.unanswered,
            )
        )
        self._supervisor.fill("replacement")

    def _on_death(self, worker: WorkerHandle, status: int | None) -> None:
        lost = list(worker.in_flight.values())
        reason = self._supervisor.lost(worker, status)
        worker.in_flight.clear()
        for work in reversed(lost):  # each goes to the front, so the first comes to lie first
            self._stopped(work)
            if not work.ended:
                self._settle(work, worker, status, reason)
        self._pump()

    def _settle(self, work: Work, worker: WorkerHandle, status: int | None, reason: str) -> None:
        alone = self._supervisor.one_call_each
        verdict = judge(work, worker, status, alone=alone)
        if verdict is Verdict.OVER:
            self.end(work, work.timed_out(killed=True))
        elif verdict is Verdict.POISON:
            self.end(work, endings.poison(worker, work, reason))
        elif verdict is Verdict.LOST:
            self.end(work, endings.lost(worker, work, reason))
        elif verdict is Verdict.ALONE and self._companion is not None and not alone:
            self._companion().adopt(work)
        else:
            self.adopt(work)
