"""A worker for one call: the program has the main thread, and the channel another one.

There a program may do what it can do in a script: install signal handlers, run a loop of its own, compute
without letting go. The channel's loop on the side thread goes on meanwhile: it answers knocks, keeps the
deadline, and takes the LM requests to the gate.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import queue
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dspex.wire.messages import WorkerOptions
from dspex.worker import engine
from dspex.worker.threads import caught

_log = logging.getLogger("dspex.worker")
_Outcome = tuple[Any, BaseException | None]


class _Job:
    """Something that the channel's loop has the main thread do.

    Args:
        run: Does it, on the main thread.
    """

    def __init__(self, run: Callable[[_Job], _Outcome]) -> None:
        self._run = run
        self._home = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._cancelled = False
        self._task: asyncio.Task[Any] | None = None
        self.ended: asyncio.Future[_Outcome] = self._home.create_future()
        self.context = contextvars.copy_context()

    def cancel(self) -> None:
        """Stop it if it can be stopped: if it has not begun, or awaits."""
        with self._lock:
            self._cancelled = True
            if self._task is not None:
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    def watch(self, task: asyncio.Task[Any]) -> None:
        """It is this task that ``cancel`` cancels."""
        with self._lock:
            self._task = task
            if self._cancelled:
                task.cancel()

    def do(self) -> None:
        """Do it, and tell the loop that waits for it."""
        outcome = (None, asyncio.CancelledError()) if self._cancelled else self._run(self)
        with self._lock:
            self._task = None
        with contextlib.suppress(RuntimeError):  # the channel has ended, and with it the loop
            self._home.call_soon_threadsafe(self._tell, outcome)

    def _tell(self, outcome: _Outcome) -> None:
        if not self.ended.done():
            self.ended.set_result(outcome)


class MainThread:
    """The main thread as the place of a call. Made there; its coroutines are awaited on the channel's loop.

    Args:
        threads: How many threads the loop of an async program has for what blocks.
    """

    def __init__(self, threads: int) -> None:
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._threads = threads
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = os.getpid()

    # On the channel's loop

    async def blocking(self, function: Callable[[], Any]) -> Any:
        """Run a function on the main thread. Nothing stops it but the end of this process."""
        return await self._done(_Job(lambda job: job.context.run(caught, function)))

    async def awaited(self, function: Callable[[], Awaitable[Any]]) -> Any:
        """Run a coroutine on a loop of the main thread, and cancel it there when this is cancelled."""
        return await self._done(_Job(lambda job: self._run_on_loop(job, function)))

    async def _done(self, job: _Job) -> Any:
        engine.alone = engine.current.get(None)
        self._jobs.put(job)
        cancelled = False
        while not job.ended.done():
            try:
                await asyncio.wait([job.ended])
            except asyncio.CancelledError:
                # To answer before it has ended would call a thing stopped that still runs.
                cancelled = True
                job.cancel()
        value, error = job.ended.result()
        if cancelled:
            raise asyncio.CancelledError
        if error is not None:
            raise error
        return value

    # On the main thread

    def serve(self) -> None:
        """Do what comes until the process ends."""
        while True:
            self._jobs.get().do()
            if os.getpid() != self._process:
                # A fork of the program's, which has run on to where the program ends.
                os._exit(0)

    def _run_on_loop(self, job: _Job, function: Callable[[], Awaitable[Any]]) -> _Outcome:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._loop.set_default_executor(ThreadPoolExecutor(self._threads, "dspex-loop"))
            asyncio.set_event_loop(self._loop)

        async def outcome() -> _Outcome:
            try:
                return await function(), None
            except BaseException as error:  # noqa: BLE001 (whatever it is, it is the outcome)
                return None, error

        task = self._loop.create_task(outcome(), context=job.context)
        job.watch(task)
        try:
            return self._loop.run_until_complete(task)
        except BaseException as error:  # noqa: BLE001 (of another task of the program's: it stops the loop)
            return None, error


def live(
    sock: socket.socket,
    options: WorkerOptions,
    serve: Callable[[socket.socket, WorkerOptions, MainThread], Coroutine[Any, Any, None]],
) -> None:
    """Be an isolated worker until the process ends; on the main thread.

    Args:
        sock: The worker's end of its channel.
        options: What the supervisor told.
        serve: Serves the channel, on the side thread's loop, and ends the process.
    """
    place = MainThread(options.slots + 16)

    def beside() -> None:
        try:
            asyncio.run(serve(sock, options, place))  # ends the process itself
        except BaseException:  # noqa: BLE001 (whatever it was, nobody hears this worker any more)
            _log.exception("the worker failed")
        finally:
            os._exit(1)

    threading.Thread(target=beside, name="dspex-channel", daemon=True).start()
    place.serve()
