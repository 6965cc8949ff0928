"""Looks at the workers now and then: does their event loop turn, how old are they, how large, how idle."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from dspex.pool.handle import WorkerHandle
from dspex.settings import PoolOptions

_PERIOD = 1.0
# With a limit of memory: a program may take gigabytes in a second.
_MEMORY_PERIOD = 0.05
# A look that comes this much late was held up in this process, and says nothing of the workers.
_OWN_LAG = 0.25
# Seconds of silence after which a worker is given no calls, and after which it is killed.
_STALLED = 2.0
_BLOCKED = 10.0
# Seconds without a call after which a worker above the pool's least size goes.
_IDLE = 5.0
_TIMES_RSS = 2


class Ward(Protocol):
    """Whose workers are looked at, and who acts on what is found."""

    workers: dict[int, WorkerHandle]

    def recycle(self, worker: WorkerHandle, cause: str) -> None: ...

    def shrink(self, worker: WorkerHandle) -> bool: ...

    def thrives(self) -> None: ...


class Vitals:
    """The regular look at one pool's workers, while it is open.

    Args:
        ward: The pool's supervisor.
        options: What the workers may become.
    """

    def __init__(self, ward: Ward, options: PoolOptions) -> None:
        self._ward = ward
        self._max_rss = options.max_rss
        self._loop = asyncio.get_running_loop()
        self._timers: list[asyncio.TimerHandle] = []
        self._due = 0.0

    def start(self) -> None:
        """Begin to look."""
        self._due = self._loop.time() + _PERIOD
        self._timers = [self._loop.call_at(self._due, self._look)]
        if self._max_rss is not None:
            self._timers.append(self._loop.call_later(_MEMORY_PERIOD, self._weigh, self._max_rss))

    def stop(self) -> None:
        """Look no more."""
        for timer in self._timers:
            timer.cancel()

    def _look(self) -> None:
        late = self._loop.time() - self._due > _OWN_LAG
        self._due = self._loop.time() + _PERIOD
        self._timers[0] = self._loop.call_at(self._due, self._look)
        now = time.monotonic()
        for worker in list(self._ward.workers.values()):
            worker.listen()
            if late:
                worker.pulse.forgive()
            self._check_loop(worker)
            if worker.state in {"ready", "busy"}:
                if now - worker.born > _PERIOD and not worker.pulse.stalled:
                    self._ward.thrives()
                is_idle = worker.idle_since is not None and now - worker.idle_since >= _IDLE
                is_old = now - worker.born >= worker.lifespan.seconds
                if not (is_idle and self._ward.shrink(worker)) and is_old:
                    self._ward.recycle(worker, "age")

    @staticmethod
    def _check_loop(worker: WorkerHandle) -> None:
        silent = worker.pulse.silent()
        worker.pulse.stalled |= silent > _STALLED  # until it beats
        # A call that has its worker for itself may block it for as long as its own deadline allows.
        if silent > _BLOCKED and worker.unanswered != 1:
            worker.blocked = True
            worker.kill("blocked", f"its event loop did not turn for {silent:.0f} s")
        worker.knock()

    def _weigh(self, most: int) -> None:
        self._timers[1] = self._loop.call_later(_MEMORY_PERIOD, self._weigh, most)
        for worker in list(self._ward.workers.values()):
            rss = worker.rss
            if rss > _TIMES_RSS * most:
                worker.kill("memory", f"it had {rss / 2**20:.0f} MiB of memory, twice its max_rss and more")
            elif rss > worker.lifespan.rss and (worker.done or worker.in_flight):
                self._ward.recycle(worker, "rss")
