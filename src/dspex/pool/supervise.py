"""Keep the wanted number of workers: start them, replace them, say when they do not start."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextvars import Context
from typing import Protocol

from dspex.errors import DspexError, PoolUnhealthy
from dspex.pool import endings
from dspex.pool.handle import WorkerHandle
from dspex.pool.health import Health
from dspex.pool.vitals import Vitals
from dspex.pool.zygote_client import Forkling, Zygote, ZygoteGone
from dspex.settings import PoolOptions
from dspex.telemetry.events import (
    Event,
    PoolFailed,
    PoolRecovered,
    PoolResized,
    WorkerGone,
    WorkerReady,
    WorkerStarted,
)
from dspex.wire.messages import WorkerOptions

_log = logging.getLogger("dspex.pool")
# Seconds that a worker has to live, after a row of failures, before calls are trusted to the pool again.
_PROBATION = 0.5
# Ends of a ready worker that say nothing of whether workers can live: its zygote died (and nobody knows
# how it ended), or somebody killed it.
_FROM_OUTSIDE = frozenset({None, -signal.SIGKILL})
# Causes of an end that call for no other worker.
_NOT_REPLACED = frozenset({"idle", "done", "closing"})


class Home(Protocol):
    """The pool that the workers belong to."""

    name: str

    def make_handle(self, forkling: Forkling) -> WorkerHandle: ...

    def on_exit(self, number: int, status: int | None) -> None: ...

    def on_change(self) -> None: ...

    def waiting(self) -> int: ...


class Supervisor:
    """The workers of one pool.

    Args:
        home: Their pool.
        options: How it is run.
        size: The fewest workers and the most.
        zygote: Where they come from.
        worker_options: What each is told.
        emit: Told of what becomes of them.

    Attributes:
        workers: All that are not dead, by number.
        restarts: Ends by cause.
        wanted: How many there should be now; of workers for one call each, how many stand ready.
    """

    def __init__(
        self,
        home: Home,
        options: PoolOptions,
        size: tuple[int, int],
        zygote: Zygote,
        worker_options: WorkerOptions,
        emit: Callable[[Event], None],
    ) -> None:
        self.workers: dict[int, WorkerHandle] = {}
        self.restarts: Counter[str] = Counter()
        self._home = home
        self._options = options
        self._least, self._most = size
        self.wanted = self._least
        self._zygote = zygote
        self._worker_options = worker_options
        self._emit = emit
        self._health = Health()
        self._vitals = Vitals(self, options)
        self._starting: set[asyncio.Task[None]] = set()
        self._mourned = 0
        self._closing = False

    @property
    def unhealthy(self) -> PoolUnhealthy | None:
        """What calls are refused with; None when the pool is well."""
        return self._health.error

    @property
    def most(self) -> int:
        """The most workers."""
        return self._most

    @property
    def one_call_each(self) -> bool:
        """Whether each worker runs one call only."""
        return self._worker_options.isolated

    def start(self) -> None:
        """Start the first workers; returns at once."""
        self._vitals.start()
        self.fill("size")

    # How many

    def fill(self, cause: str) -> None:
        """Start as many workers as are missing."""
        if self._closing:
            return
        for _ in range(self._missing()):
            # Not in the context of the call that needs it: a worker outlives that, and runs others.
            task = asyncio.create_task(self._start_one(cause), context=Context())
            self._starting.add(task)
            task.add_done_callback(self._started)

    def _missing(self) -> int:
        serving = [worker for worker in self.workers.values() if worker.serving]
        if self.one_call_each:
            # A worker with a call is spent: it stands for nobody else.
            unspent = sum(worker.idle_since is not None for worker in serving) + len(self._starting)
            # Nobody waits for a pool that refuses, so one is tried until it lives.
            wanted = max(self.wanted, self._home.waiting(), int(self._health.error is not None))
            return min(wanted - unspent, self._most - len(self.workers) - len(self._starting))
        retiring = sum(worker.retiring is not None for worker in serving)
        return self.wanted + retiring - len(serving) - len(self._starting)

    def _started(self, task: asyncio.Task[None]) -> None:
        self._starting.discard(task)
        if not task.cancelled():  # closing does that, and an event loop that is torn down
            self.fill("size")

    def grow(self) -> bool:
        """Calls wait for a slot: have more workers, as many as they fill, up to the most.

        Returns:
            Whether more are wanted now than before.
        """
        before = self.wanted
        if self.one_call_each:
            self.fill("call")
        elif self.wanted < self._most:
            coming = len(self._starting) + sum(worker.state == "starting" for worker in self.workers.values())
            missing = -(-self._home.waiting() // self._options.slots) - coming
            if missing > 0:
                self._resize(min(self._most, self.wanted + missing), "growth")
                self.fill("growth")
        return self.wanted > before

    def shrink(self, worker: WorkerHandle) -> bool:
        """A worker has had nothing to do for a while: let it go if it is one more than have to be kept."""
        before = worker.serving
        if self.one_call_each:
            unspent = sum(other.serving and other.idle_since is not None for other in self.workers.values())
            if unspent > self._least:
                worker.drain("idle")
        elif self.wanted > self._least and worker.retiring is None:
            self._resize(self.wanted - 1, "idle")
            worker.drain("idle")
        return before and not worker.serving

    def _resize(self, wanted: int, cause: str) -> None:
        _log.debug(
            "pool %s: %d workers wanted instead of %d (%s)", self._home.name, wanted, self.wanted, cause
        )
        before, self.wanted = self.wanted, wanted
        self._emit(PoolResized(pool=self._home.name, before=before, wanted=wanted, cause=cause))

    def recycle(self, worker: WorkerHandle, cause: str) -> None:
        """Replace a worker that still works: first its successor starts, then it drains, then it exits."""
        if worker.retiring is None and worker.serving and not self._closing:
            worker.retiring = cause
            if self.one_call_each:
                worker.drain(cause)
            self.fill("replacement")

    def _relieve(self) -> None:
        """Let go of retiring workers for whom others are there."""
        serving = [worker for worker in self.workers.values() if worker.serving]
        fresh = sum(worker.was_ready and worker.retiring is None for worker in serving)
        retiring = [worker for worker in serving if worker.retiring is not None]
        for worker in retiring[: max(0, fresh + len(retiring) - self.wanted)]:
            worker.drain(worker.retiring or "age")

    # One worker, from its fork to its death

    async def _start_one(self, cause: str) -> None:
        if pause := self._health.pause():
            await asyncio.sleep(pause)
        try:
            forkling = await self._zygote.fork(self._worker_options, self._home.on_exit)
        except ZygoteGone as gone:
            if gone.pid != self._mourned:  # one death, however many forks were waiting for it
                self._mourned = gone.pid
                self._failed(str(gone))
        except DspexError as error:
            # No zygote: what it imports fails, and would fail again.
            self._failed(str(error.details.get("cause", error.message)), hopeless=True)
        except Exception as error:  # noqa: BLE001 (no descriptors, no memory: it is tried again, with a pause)
            self._failed(f"{type(error).__name__}: {error}")
        else:
            worker = self.workers[forkling.number] = self._home.make_handle(forkling)
            self._emit(WorkerStarted(pool=self._home.name, worker=worker.number, pid=worker.pid, cause=cause))

    def on_ready(self, worker: WorkerHandle) -> None:
        """A worker has said that it is ready."""
        seconds = time.monotonic() - worker.born
        _log.debug("worker %d (pid %d) is ready after %.3f s", worker.number, worker.pid, seconds)
        self._emit(
            WorkerReady(pool=self._home.name, worker=worker.number, pid=worker.pid, seconds=round(seconds, 4))
        )
        self._relieve()
        if self._health.error is not None:
            worker.on_probation = True
            asyncio.get_running_loop().call_later(_PROBATION, self._passed, worker)
        else:
            self._recovered()

    def _passed(self, worker: WorkerHandle) -> None:
        if worker.serving:
            self._recovered()

    def _recovered(self) -> None:
        for worker in self.workers.values():
            worker.on_probation = False
        if self._health.recovered():
            _log.info("pool %s is well again", self._home.name)
            self._emit(PoolRecovered(pool=self._home.name))
        self._home.on_change()

    def thrives(self) -> None:
        """A worker has been ready for a while."""
        self._health.answered()

    def answered(self, worker: WorkerHandle) -> None:
        """A worker has answered a call."""
        self._health.answered()
        if self.one_call_each:
            worker.drain("done")
        elif worker.done >= worker.lifespan.calls:
            self.recycle(worker, "calls")

    def lost(self, worker: WorkerHandle, status: int | None) -> str:
        """A worker is dead: replace it, at once if it had answered anything.

        Returns:
            Why, for people.
        """
        self.workers.pop(worker.number, None)
        planned = worker.cause is not None and not worker.killed and not worker.unanswered
        # One that was to end well, and died with calls all the same, has crashed.
        as_told = worker.killed or not worker.unanswered
        cause = (worker.cause if as_told else None) or "crashed"
        reason = endings.cause_of_death(worker, status)
        self._emit(
            WorkerGone(
                pool=self._home.name,
                worker=worker.number,
                pid=worker.pid,
                cause=cause,
                reason=reason,
                lost=worker.unanswered,
                planned=planned,
            )
        )
        if self._closing:
            return reason
        if cause not in _NOT_REPLACED:
            self.restarts[cause] += 1
        _log.log(
            logging.DEBUG if planned else logging.WARNING,
            "worker %d (pid %d) is gone: %s", worker.number, worker.pid, reason,
            extra=worker.whose(),
        )  # fmt: skip
        if not worker.was_ready:
            self._failed(f"worker {worker.number} died before it was ready: {reason}")
        elif (
            cause == "crashed" and not worker.done and not self.one_call_each and status not in _FROM_OUTSIDE
        ):
            self._failed(f"worker {worker.number} died: {reason}", in_a_call=bool(worker.in_flight))
        elif cause == "memory" and not worker.done and not worker.in_flight:
            self._failed(f"worker {worker.number} had done nothing: {reason}")
        self.fill("size")
        return reason

    def _failed(self, cause: str, *, in_a_call: bool = False, hopeless: bool = False) -> None:
        self._health.failed(cause, in_a_call=in_a_call, hopeless=hopeless)
        _log.error("pool %s: %s", self._home.name, cause)
        ready = any(worker.state in {"ready", "busy"} for worker in self.workers.values())
        if self._health.looping and not ready and not self._closing:
            if self._health.give_up():
                failures = self._health.failures
                self._emit(PoolFailed(pool=self._home.name, cause=cause, failures=failures))
            self._home.on_change()

    async def close(self, grace: float) -> None:
        """Stop all workers: ask, wait for ``grace`` seconds, kill."""
        self._closing = True
        self._vitals.stop()
        for task in self._starting:
            task.cancel()
        if self._starting:
            await asyncio.wait(self._starting)
        workers = list(self.workers.values())
        for worker in workers:
            worker.stop("closing")
        gone = [asyncio.ensure_future(worker.dead.wait()) for worker in workers]
        if gone:
            _, left = await asyncio.wait(gone, timeout=grace)
            if left:
                for worker in workers:
                    worker.kill("closing")
                await asyncio.wait(left)
