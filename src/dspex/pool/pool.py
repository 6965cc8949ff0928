"""A pool of workers on this machine: admits calls, bounds them in time, and gives each exactly one end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import msgspec

from dspex.errors import DspexError, PoolClosed, PythonTimeout, from_wire
from dspex.lm.gate import Gate
from dspex.lm.gates import Gates
from dspex.pool import endings
from dspex.pool.deadlines import Deadlines
from dspex.pool.dispatch import Dispatch
from dspex.pool.handle import WorkerHandle
from dspex.pool.lifespan import Lifespan
from dspex.pool.listener import Listener
from dspex.pool.losses import Verdict, judge
from dspex.pool.stats import PoolStats, WorkerStats
from dspex.pool.supervise import Supervisor
from dspex.pool.tally import Tally
from dspex.pool.terms import terms
from dspex.pool.work import Done, Work
from dspex.pool.zygote_client import Forkling, Zygote
from dspex.process import limits
from dspex.settings import PoolOptions, Settings
from dspex.telemetry.events import CallStarted, Event, PoolClosing, WorkerDraining
from dspex.types import LMRequest
from dspex.wire.blobs import Blob
from dspex.wire.messages import ENVELOPE, Fault, Result
from dspex.wire.payloads import discard


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
        learn: Told what each worker that is ready says of its DSPy.
        requested: Told of each LM request that has ended, with the pool's name.
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
        learn: Callable[[msgspec.Raw], None] | None = None,
        requested: Callable[[str, LMRequest], None] = lambda *_: None,
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
        gates.on_refusal.append(self._on_refusal)
        self._emit = emit
        self._companion = companion
        self._learn = learn
        self._deadlines = Deadlines(self, options)
        self._tally = Tally()
        self._refusing = False
        self._closed = False
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        size = options.size(limits.cores())
        told = terms(options, settings, self._slots)
        self._supervisor = Supervisor(self, options, size, zygote, told, emit)
        self._dispatch = Dispatch(options, self._slots, self._supervisor, self.end)
        self._listener = Listener(
            ready=self._on_ready,
            answered=self._on_answer,
            draining=self._on_draining,
            dead=self._on_death,
            writable=self._dispatch.pump,
            started=self._on_start,
            requested=partial(requested, name),
            strayed=self._tally.strayed,
        )

    def _on_ready(self, worker: WorkerHandle) -> None:
        if self._learn is not None:
            self._learn(worker.installed)
        self._supervisor.on_ready(worker)

    def _on_start(self, worker: WorkerHandle, work: Work) -> None:
        assert work.said is not None
        self._emit(CallStarted(**work.said, worker=worker.number, attempt=work.attempts))

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
        if work.trace is not None:
            work.trace.waits()
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

    @property
    def capacity(self) -> int:
        """How many calls its workers run at once when there are as many of them as there may be."""
        return self._supervisor.most * self._slots

    @property
    def asleep(self) -> bool:
        """Whether it has neither workers nor calls."""
        return not self._supervisor.workers and not self._tally.unfinished

    def take_over(self, closed: LocalPool) -> None:
        """Count the calls and the ends of workers of a pool that is no more."""
        self._tally.add(closed._tally)
        self._supervisor.restarts.update(closed._supervisor.restarts)

    def stats(self) -> PoolStats:
        """How it stands."""
        unhealthy = self._supervisor.unhealthy
        return PoolStats(
            [
                WorkerStats(w.number, w.pid, w.state, w.rss, len(w.in_flight), w.done)
                for w in list(self._supervisor.workers.values())  # a copy: any thread may ask
            ],
            len(self._dispatch),
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
        self._gates.on_refusal.remove(self._on_refusal)
        for work in self._dispatch.drain():
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
        refusal = work.refusal()
        if refusal is not None:
            raise refusal
        begins = self._dispatch.begins(work)
        if not begins and self._dispatch.is_full(work):
            raise endings.saturated(self.name, len(self._dispatch), self.retry_after())
        self._deadlines.arm(work)
        if begins:
            self._dispatch.start(work)
        else:
            self._dispatch.wait(work)

    def adopt(self, work: Work) -> None:
        """Take over a call that another pool has admitted; it goes before those that wait here."""
        work.pool = self
        if self._closed:
            self.end(work, endings.closed(self.name, while_running=True))
        elif self._supervisor.unhealthy is not None:
            self.end(work, endings.unhealthy_again(self._supervisor.unhealthy))
        else:
            work.started = None
            if work.trace is not None:
                work.trace.waits()
            refusal = work.refusal()
            if refusal is not None:  # nobody would tell it later
                self.end(work, refusal)
                return
            self._deadlines.arm(work)
            self._dispatch.put_back(work)

    def waiting(self) -> int:
        """How many calls wait for nothing but a slot."""
        return self._dispatch.waiting()

    def retry_after(self) -> float:
        """Seconds after which somebody who was refused may come again."""
        return self._dispatch.retry_after()

    def leave_queue(self, work: Work, error: DspexError) -> None:
        """End a call that waits."""
        # Ended first: the queue tells those that wait by that.
        self.end(work, error)
        self._dispatch.leave(work)

    def _on_room(self) -> None:
        self._dispatch.pump()

    def _on_watch(self, gate: Gate, watched: bool) -> None:
        for worker in self._supervisor.workers.values():
            worker.watch(gate.number, on=watched)

    def _on_refusal(self) -> None:
        """An endpoint is left alone, or a budget is spent: who waits for it need not wait any longer."""
        for work in self._dispatch.all_waiting():
            refusal = None if work.ended else work.refusal()
            if refusal is not None:
                self.leave_queue(work, refusal)

    # The ends of a call

    def end(self, work: Work, outcome: Done | DspexError) -> None:
        """Give a call its one end; one that has it already keeps it."""
        if work.timer is not None:
            work.timer.cancel()
        work.stop_callbacks()
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
        work.stop_callbacks()
        if work.timer is not None:
            work.timer.cancel()
        if work.worker is None:
            self._dispatch.leave(work)
        else:
            work.worker.cancel(work)
            self._deadlines.caller_left(work)

    def _on_answer(
        self, worker: WorkerHandle, work: Work | None, answer: Result | Fault, blob: Blob | None
    ) -> None:
        self._supervisor.answered(worker)
        if work is None:
            self._tally.strayed()
            if blob is not None:
                blob.close()
            return
        self._dispatch.stopped(work, answer.error["code"] if isinstance(answer, Fault) else None)
        if isinstance(answer, Result):
            value, queued = answer.value if blob is None else blob, work.queued()
            self.end(work, Done(value, work.requests, worker.number, work.attempts, queued, answer.seconds))
            if work.command == "shutdown":
                worker.drain("shutdown")
        else:
            error = from_wire(answer.error)
            if isinstance(error, PythonTimeout) or work.overdue:
                error = work.timed_out(killed=False)
            self.end(work, error)
        self._dispatch.pump()

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
            for work in self._dispatch.drain():
                self.end(work, endings.unhealthy_again(self._supervisor.unhealthy))
        self._dispatch.pump()

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
        reason = self._supervisor.lost(worker, status)
        # Each goes to the front, so the first comes to lie first.
        for work in reversed(self._dispatch.lost(worker)):
            if not work.ended:
                self._settle(work, worker, status, reason)
        self._dispatch.pump()

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
