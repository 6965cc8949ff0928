"""From the runtime's loop to whoever reads a stream, on any thread or loop, and the reader's pace back."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

# Deltas that may be on their way to a reader who does not read.
WINDOW = 32
# Deltas after whose reading the worker is told.
_STEP = 8
# Seconds after which a thread that waits looks up, so that Ctrl-C is seen.
_LOOK_UP = 0.5


class Ended(Exception):
    """There is nothing more to read.

    Attributes:
        result: What the call came to; None when it failed.
        error: Why it failed.
    """

    def __init__(self, result: Any, error: BaseException | None) -> None:
        super().__init__()
        self.result = result
        self.error = error


class Feed:
    """Events in order, then one end.

    Args:
        grant: Told how many deltas were read; on the reader's thread.
    """

    def __init__(self, grant: Callable[[int], None]) -> None:
        self._grant = grant
        self._lock = threading.Condition()
        self._events: deque[tuple[Any, bool]] = deque()
        self._end: Ended | None = None
        self._read = 0
        self._wakes: set[Callable[[], None]] = set()

    # Whoever writes

    def put(self, event: Any, *, counted: bool = False) -> None:
        """Tell an event; ``counted`` ones are granted again once they are read."""
        with self._lock:
            if self._end is None:
                self._events.append((event, counted))
                self._told()

    def finish(self, result: Any, error: BaseException | None = None) -> None:
        """Tell the end; the first one counts."""
        with self._lock:
            if self._end is None:
                self._end = Ended(result, error)
                self._told()

    @property
    def ended(self) -> bool:
        """Whether the end was told."""
        return self._end is not None

    def _told(self) -> None:
        self._lock.notify_all()
        for wake in self._wakes:
            wake()

    # Whoever reads

    def take(self) -> Any:
        """The next event, when it comes; for threads.

        Raises:
            Ended: There is none.
        """
        with self._lock:
            while not self._events and self._end is None:
                self._lock.wait(_LOOK_UP)
            event, more = self._next()
        if more:
            self._grant(more)
        return event

    async def atake(self) -> Any:
        """``take`` for event loops."""
        loop = asyncio.get_running_loop()
        while True:
            with self._lock:
                if self._events or self._end is not None:
                    event, more = self._next()
                    break
                come = loop.create_future()
                wake = _waker(loop, come)
                self._wakes.add(wake)
            try:
                await come
            finally:
                with self._lock:
                    self._wakes.discard(wake)
        if more:
            self._grant(more)
        return event

    def wait(self, seconds: float) -> None:
        """Wait until the end was told, for so long at most."""
        with self._lock:
            self._lock.wait_for(lambda: self._end is not None, seconds)

    def _next(self) -> tuple[Any, int]:
        if not self._events:
            assert self._end is not None
            raise self._end
        event, counted = self._events.popleft()
        self._read += counted
        if self._read < _STEP:
            return event, 0
        more, self._read = self._read, 0
        return event, more


def _waker(loop: asyncio.AbstractEventLoop, come: asyncio.Future[None]) -> Callable[[], None]:
    def settle() -> None:
        if not come.done():
            come.set_result(None)

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the reader's loop is closed
            loop.call_soon_threadsafe(settle)

    return wake
