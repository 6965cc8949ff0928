"""Calls made to one pool, and how they ended."""

from __future__ import annotations

import asyncio
from collections import Counter


class Tally:
    """Every call is counted when it is made and once when it has ended, wherever that happens.

    Attributes:
        calls: Calls made.
        ends: Calls by how they ended: ``ok``, or the code of their error.
        late_replies: Answers that nobody waited for.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.ends: Counter[str] = Counter()
        self.late_replies = 0
        self._unfinished = 0
        self._done = asyncio.Event()
        self._done.set()

    @property
    def unfinished(self) -> int:
        """How many have not ended."""
        return self._unfinished

    def add(self, other: Tally) -> None:
        """Count what another one has counted, all of which has ended."""
        self.calls += other.calls
        self.ends += other.ends
        self.late_replies += other.late_replies

    def begin(self) -> None:
        """A call is made."""
        self.calls += 1
        self._unfinished += 1
        self._done.clear()

    def end(self, code: str) -> None:
        """A call has ended."""
        self.ends[code] += 1
        self._unfinished -= 1
        if not self._unfinished:
            self._done.set()

    def strayed(self) -> None:
        """Something came that nobody waits for."""
        self.late_replies += 1

    async def all_ended(self) -> None:
        """Wait until no call is unfinished."""
        await self._done.wait()
