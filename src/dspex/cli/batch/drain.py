"""Ctrl-C in a batch: the first lets what runs end, the next stops at once."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self

from dspex.cli.batch.bar import Tally


class Drain:
    """While it is open, the first Ctrl-C ends the rows that are to be asked.

    Args:
        tally: Where it is told.

    Attributes:
        asked: Whether there was one.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self.asked = False

    def __enter__(self) -> Self:
        self._before = signal.getsignal(signal.SIGINT)
        if self._before is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._came)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def until(self, items: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The items, as long as nobody has asked to stop."""
        for item in items:
            if self.asked:
                return
            yield item

    def _came(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            if callable(self._before):
                self._before(number, frame)
            return
        self.asked = True
        self._tally.say("stopping: what runs may end; Ctrl-C once more stops at once")
