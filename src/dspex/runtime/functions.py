"""Where the caller's functions run: threads, and an event loop, that are no part of the supervisor.

A function may block for as long as it likes, so none runs on the supervisor's loop. A thread cannot be
stopped: one whose function hangs stays until that returns, or until the process ends, which it does not hold
up.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable

from dspex.errors import ToolError
from dspex.runtime.portal import serve

#: Functions that may block at the same time in one runtime, those of calls that are over included.
MOST = 1000
# Seconds that an idle thread waits for the next function.
_IDLE = 10.0
# Seconds that the loop has to end in; a coroutine that blocks it keeps it for longer.
_LAST_WORDS = 1.0


class Threads:
    """As many threads as there are functions that block, kept for a while afterwards.

    Not a ``ThreadPoolExecutor``: the interpreter's end waits for the threads of that.

    Args:
        most: How many there may be.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._count = 0

    def run(self, job: Callable[[], None]) -> None:
        """Have a thread do it; returns at once. It must not raise.

        Raises:
            ToolError: There are too many already.
        """
        if not self._idle.acquire(blocking=False):
            with self._lock:
                if self._count >= self._most:
                    raise ToolError(
                        f"{self._most} functions of callers run in this process already, those included that "
                        "hang since their call ended: have tools end in time, by a timeout of their own, or "
                        "make them async, which can be cancelled",
                        details={"running": self._count},
                    )
                self._count += 1
                number = self._count
            threading.Thread(target=self._serve, name=f"dspex-tool-{number}", daemon=True).start()
        self._jobs.put(job)

    def _serve(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=_IDLE)
            except queue.Empty:
                if self._idle.acquire(blocking=False):
                    break
                continue  # it is counted on: something is on its way
            job()
            del job  # it holds what the function had
            self._idle.release()
        with self._lock:
            self._count -= 1


class Functions:
    """What all of a runtime's callers share."""

    def __init__(self) -> None:
        self.threads = Threads()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop of async functions whose caller has none, on a thread of its own; from any thread.

        Raises:
            ToolError: The runtime is being closed.
        """
        with self._lock:
            if self._closed:
                raise ToolError("the runtime is being closed")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=serve, args=(self._loop,), name="dspex-tools", daemon=True
                )
                self._thread.start()
            return self._loop

    @property
    def running_loop(self) -> asyncio.AbstractEventLoop | None:
        """The same if there is one by now."""
        return self._loop

    async def aclose(self) -> None:
        """End the loop. One that is blocked ends when its function does. Safe to repeat."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        with contextlib.suppress(RuntimeError):  # it is closed
            loop.call_soon_threadsafe(loop.stop)
        end = asyncio.get_running_loop().time() + _LAST_WORDS
        # No thread to wait in: at the interpreter's exit there are none any more.
        while thread.is_alive() and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
