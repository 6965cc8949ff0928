"""An event loop whose time is a number: hours pass in a moment, and nothing depends on the machine."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest import mock

T = TypeVar("T")


class _Impatient(selectors.EpollSelector):
    """Looks at what is there, and never waits for it."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time stands still but for `advance`."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__(_Impatient())

    def time(self) -> float:
        return self.now

    def settle(self) -> None:
        """Let everything happen that can happen now."""
        quiet = 0
        while quiet < 3:
            ready: int = len(self._ready)  # type: ignore[attr-defined]
            self.call_soon(self.stop)
            self.run_forever()
            quiet = quiet + 1 if not ready and not self._ready else 0  # type: ignore[attr-defined]

    def advance(self, seconds: float) -> None:
        """Let time pass, and each timer fire when it is due."""
        end = self.now + seconds
        self.settle()
        while (due := self.next_timer()) is not None and due <= end:
            self.now = max(self.now, due)
            self.settle()
        self.now = end
        self.settle()

    def jump(self, seconds: float) -> None:
        """Let time pass unseen, as for a process that was stopped."""
        self.now += seconds
        self.settle()

    def next_timer(self) -> float | None:
        """When the next timer is due; None when there is none."""
        waiting: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        return min((timer.when() for timer in waiting if not timer.cancelled()), default=None)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine that needs no time to pass."""
        task = self.create_task(work)
        self.settle()
        return task.result()


@contextmanager
def virtual_loop() -> Iterator[VirtualLoop]:
    """A loop whose time is also that of ``time.monotonic``."""
    loop = VirtualLoop()
    with mock.patch.object(time, "monotonic", loop.time):
        try:
            yield loop
        finally:
            loop.close()
