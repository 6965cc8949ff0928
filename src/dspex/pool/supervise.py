"""Keep the wanted number of workers: start them, replace the lost ones, say when they do not start."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable

from dspex.errors import DspexError, PoolUnhealthy
from dspex.pool.handle import WorkerHandle
from dspex.pool.zygote_client import Forkling, Zygote
from dspex.wire.messages import WorkerOptions

_log = logging.getLogger("dspex.pool")
# Failed starts in a row after which the pool says that it is broken, and the waits between them.
_UNHEALTHY_AFTER = 3
_FIRST_WAIT = 0.1
_LONGEST_WAIT = 10.0
# Seconds in which a forked worker has to be ready; it is, within 20 ms, unless a preload hangs.
_START_LIMIT = 60.0


class Supervisor:
    """The workers of one pool.

    Args:
        wanted: How many there should be.
        zygote: Where they come from.
        options: What each is told.
        handle: Makes the handle of a forked worker.
        on_exit: Called with a worker's number and exit status when it is dead and swept.
        on_change: Called when a worker has become ready, or the pool unhealthy.
    """

    def __init__(
        self,
        wanted: int,
        zygote: Zygote,
        options: WorkerOptions,
        handle: Callable[[Forkling], WorkerHandle],
        on_exit: Callable[[int, int | None], None],
        on_change: Callable[[], None],
    ) -> None:
        self.workers: dict[int, WorkerHandle] = {}
        self.restarts: Counter[str] = Counter()
        self.unhealthy: PoolUnhealthy | None = None
        self._wanted = wanted
        self._zygote = zygote
        self._options = options
        self._handle = handle
        self._on_exit = on_exit
        self._on_change = on_change
        self._failures = 0
        self._starting: set[asyncio.Task[None]] = set()
        self._closing = False

    def start(self) -> None:
        """Start as many workers as are missing."""
        missing = self._wanted - len(self.workers) - len(self._starting)
        for _ in range(0 if self._closing else missing):
            task = asyncio.create_task(self._start_one())
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)
            task.add_done_callback(lambda _: self.start())

    async def _start_one(self) -> None:
        if self._failures:
            wait = min(_FIRST_WAIT * 2 ** (self._failures - 1), _LONGEST_WAIT)
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
        try:
            forkling = await self._zygote.fork(self._options, self._on_exit)
        except DspexError as error:
            # No zygote: what it imports fails, and would fail again.
            self._failures = max(self._failures, _UNHEALTHY_AFTER)
            self._failed(str(error.details.get("cause", error.message)))
        except Exception as error:  # noqa: BLE001 (no descriptors, no memory: it is tried again, with a pause)
            self._failed(f"{type(error).__name__}: {error}")
        else:
            worker = self.workers[forkling.number] = self._handle(forkling)
            asyncio.get_running_loop().call_later(_START_LIMIT, self._check_started, worker)

    def _check_started(self, worker: WorkerHandle) -> None:
        if worker.state == "starting":
            worker.kill(f"not ready within {_START_LIMIT:g} s")

    def ready(self, worker: WorkerHandle) -> None:
        """A worker has said that it is ready."""
        _log.debug("worker %d (pid %d) is ready", worker.number, worker.pid)
        self.unhealthy = None
        self._on_change()

    def answered(self) -> None:
        """A worker has answered: starts fail no more."""
        self._failures = 0

    def lost(self, worker: WorkerHandle, cause: str, *, was_ready: bool) -> None:
        """A worker is dead: replace it, at once if it had been ready."""
        self.workers.pop(worker.number, None)
        if self._closing:
            return
        self.restarts[worker.killed_for or "crashed"] += 1
        _log.warning("worker %d (pid %d) is gone: %s", worker.number, worker.pid, cause)
        if was_ready and not worker.done and worker.killed_for is None:
            self._failures += 1  # it answered nothing: the next one is not started at once
        elif not was_ready:
            self._failed(f"worker {worker.number} died before it was ready: {cause}")
        self.start()

    def _failed(self, cause: str) -> None:
        self._failures += 1
        _log.error("a worker did not start: %s", cause)
        ready = any(worker.state in {"ready", "busy"} for worker in self.workers.values())
        if self._failures >= _UNHEALTHY_AFTER and not ready and not self._closing:
            self.unhealthy = PoolUnhealthy(
                f"workers do not start, and it is tried again until they do; the last cause: {cause}",
                details={"cause": cause, "failures": self._failures},
            )
            self._on_change()

    async def close(self, grace: float) -> None:
        """Stop all workers: ask, wait for ``grace`` seconds, kill."""
        self._closing = True
        for task in self._starting:
            task.cancel()
        if self._starting:
            await asyncio.wait(self._starting)
        workers = list(self.workers.values())
        for worker in workers:
            worker.stop()
        gone = [asyncio.ensure_future(worker.dead.wait()) for worker in workers]
        if gone:
            _, left = await asyncio.wait(gone, timeout=grace)
            if left:
                for worker in workers:
                    worker.kill("closing")
                await asyncio.wait(left)
