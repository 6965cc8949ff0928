"""One event loop for a runtime, and the way onto it from any thread and any other loop.

The core is written once, as coroutines. A runtime opened with ``with`` has a thread of its own for them;
one opened with ``async with`` lives on the loop that opened it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from dspex.errors import PoolClosed
from dspex.process import standard

T = TypeVar("T")
_LOOK_UP = 0.5


def serve(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop on this thread until it is stopped, then end what is left on it, and close it."""
    # Not asyncio.Runner: it ends the default executor by a new thread, and at the interpreter's exit,
    # where a forgotten runtime is closed, there are none any more.
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


class Portal:
    """The way onto the runtime's loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        # Calls from other threads; under the lock, so that none comes in between the last look and the end.
        self._lock = threading.Lock()
        self._calls: set[Future[Any]] = set()
        self._ended = False
        self._last: asyncio.Task[None] | None = None

    @property
    def has_thread(self) -> bool:
        """Whether the loop runs on a thread of its own."""
        return self._thread is not None

    def start_thread(self) -> None:
        """Run a loop on a new thread."""
        self._process = os.getpid()
        standard.fill()
        self._loop = _new_loop()
        self._thread = threading.Thread(target=serve, args=(self._loop,), name="dspex", daemon=True)
        self._thread.start()

    def adopt(self) -> None:
        """Use the running loop."""
        self._process = os.getpid()
        self._loop = asyncio.get_running_loop()

    def stop_thread(self) -> None:
        """End the loop that ``start_thread`` began, and its thread; calls that still wait are cancelled."""
        with self._lock:
            self._ended = True
            loop, thread = self._loop, self._thread
            self._loop = None
        if loop is not None:  # of several that close, the first
            loop.call_soon_threadsafe(loop.stop)
        if thread is not None:
            thread.join()
        self._thread = None
        for call in list(self._calls):
            call.cancel()  # its coroutine never began

    def run_last(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have a last coroutine run on the loop, if it still turns, and the loop's own thread end after it.

        Waits for nothing and takes no lock: a garbage collection may call this anywhere.
        """
        loop = self._loop
        if self._ended or loop is None or os.getpid() != self._process:
            return

        def begin() -> None:
            self._last = loop.create_task(work())  # kept: a loop does not keep its tasks alive
            if self._thread is not None:
                self._last.add_done_callback(lambda _: loop.stop())

        with contextlib.suppress(RuntimeError):  # it is closed
            loop.call_soon_threadsafe(begin)

    def refuse_loop(self, twin: str) -> None:
        """Refuse to wait on the runtime's own loop.

        Args:
            twin: What has to be awaited there instead.

        Raises:
            RuntimeError: This is that loop's thread.
        """
        if _running_loop() is self._home():
            raise RuntimeError(
                f"this would block the event loop that the runtime lives on: `await {twin}(...)`"
            )

    def run(self, work: Callable[[], Coroutine[Any, Any, T]], twin: str) -> T:
        """Run a coroutine on the runtime's loop and wait for it, from a thread without that loop.

        Ctrl-C while waiting cancels it.

        Raises:
            RuntimeError: Called on the runtime's own loop, which would wait for itself.
        """
        self.refuse_loop(twin)
        call = self._submit(work)
        try:
            return _result(call)
        except CancelledError:
            raise _closed() from None  # nobody else could cancel it
        except BaseException:
            call.cancel()
            raise

    async def wait(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine on the runtime's loop and wait for it, from any loop."""
        if asyncio.get_running_loop() is self._home():
            return await work()
        call = self._submit(work)
        try:
            return await asyncio.wrap_future(call)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise _closed() from None

    def begin(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Have a coroutine run on the runtime's loop, from anywhere; to cancel what this gives cancels it."""
        return self._submit(work)

    def _submit(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        with self._lock:
            loop = self._home()
            if self._ended:
                raise _closed()
            call = asyncio.run_coroutine_threadsafe(work(), loop)
            self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return call

    def call_soon(self, function: Callable[..., Any], *args: Any) -> None:
        """Call a function on the runtime's loop soon, from anywhere; never, where the runtime is closed."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed
                loop.call_soon_threadsafe(function, *args)

    def _home(self) -> asyncio.AbstractEventLoop:
        if os.getpid() != self._process:
            raise PoolClosed(
                f"this runtime was opened in process {self._process}, before a fork; open it in the child "
                "(gunicorn: in post_fork)",
                details={"opened_in": self._process},
            )
        loop = self._loop
        if loop is None or loop.is_closed():
            raise PoolClosed("this runtime is not open; use it inside `with` or `async with`")
        return loop


def _result(call: Future[T]) -> T:
    """Wait for a call; the main thread looks up now and then.

    Only the main thread runs signal handlers, and only when a signal has interrupted its wait. Of two that
    come at once another thread may take both from the kernel: then nothing wakes the main thread.
    """
    if threading.current_thread() is threading.main_thread():
        while not call.done():
            with contextlib.suppress(TimeoutError):  # the call's own is raised below
                call.exception(_LOOK_UP)
    return call.result()


def _closed() -> PoolClosed:
    return PoolClosed("this runtime was closed while the call waited")


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's loop when the extra is installed, else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
