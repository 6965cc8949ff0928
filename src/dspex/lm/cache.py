"""Answers that were given before, kept for a while by all that they depend on.

A key says nothing to who sees it: it is a digest with a salt that only this cache has, over everything that
an answer depends on, the credential and the tenant included.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from dspex.errors import BudgetExceeded, Cancelled, DspexError, PythonTimeout, QueueTimeout

# What an entry takes besides its value: its key, and its place in the order.
_OVERHEAD = 300
#: The largest part of the room that one answer may have.
LARGEST = 16
# Ends of a call that say nothing of others that ask the same: its own time, its own caller, its own budget.
_ITS_OWN = (PythonTimeout, QueueTimeout, Cancelled, BudgetExceeded)
# What an error tells of what its own call has paid.
_PAID = frozenset({"requests", "fallbacks"})


class Entry(msgspec.Struct, frozen=True):
    """One answer.

    Attributes:
        value: What the worker gave, encoded.
        model: The model that answered.
    """

    value: bytes
    model: str | None


class CacheStats(msgspec.Struct, frozen=True):
    """A cache of answers.

    Attributes:
        hits: Calls that were answered from it.
        misses: Calls that were not, and asked.
        entries: Answers that it has in memory.
        bytes: What these take.
    """

    hits: int
    misses: int
    entries: int
    bytes: int


class Kept(Protocol):
    """Where answers outlive the process; it never raises, and never holds up the loop."""

    async def salt(self) -> bytes | None:
        """What keys are made with; None while that cannot be had."""

    async def get(self, key: bytes) -> tuple[Entry, float] | None:
        """An answer, if it is there and still good, and for how many seconds it is."""

    def put(self, key: bytes, entry: Entry) -> bool:
        """Keep an answer, soon, if it is not too large; whether it is."""

    async def aclose(self) -> None:
        """Keep what waits, and let go of it."""


class Memory:
    """The answers in memory, those used last kept longest.

    Args:
        room: Bytes that they may take together.
        ttl: Seconds for which one is good.
    """

    def __init__(self, room: int, ttl: float) -> None:
        self.room = room
        self._ttl = ttl
        self._entries: OrderedDict[bytes, tuple[Entry, float]] = OrderedDict()
        self._bytes = 0

    def get(self, key: bytes) -> Entry | None:
        """An answer, if it is there and still good."""
        found = self._entries.get(key)
        if found is None:
            return None
        entry, until = found
        if time.monotonic() >= until:
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return entry

    def put(self, key: bytes, entry: Entry, left: float | None = None) -> bool:
        """Keep an answer, if it is not too large; others make room for it.

        Args:
            key: Its key.
            entry: The answer.
            left: Seconds for which it is still good, when it is not new.

        Returns:
            Whether it is kept.
        """
        if len(entry.value) > self.room // LARGEST:
            return False
        self._remove(key)
        self._entries[key] = entry, time.monotonic() + (self._ttl if left is None else left)
        self._bytes += _size(entry)
        while self._bytes > self.room and self._entries:
            self._remove(next(iter(self._entries)))
        return True

    def _remove(self, key: bytes) -> None:
        found = self._entries.pop(key, None)
        if found is not None:
            self._bytes -= _size(found[0])

    @property
    def counted(self) -> tuple[int, int]:
        """How many there are, and the bytes that they take."""
        return len(self._entries), self._bytes


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _size(entry: Entry) -> int:
    return len(entry.value) + _OVERHEAD


class _Flight:
    """One call for all that ask the same at once."""

    def __init__(self, task: asyncio.Task[Entry | None]) -> None:
        self.task = task
        self.waiting = 0


class Cache:
    """Answers of one runtime, or those of one file. Used on the runtime's loop.

    Args:
        memory: Those in memory.
        kept: Those that outlive the process; None keeps none.
    """

    def __init__(self, memory: Memory, kept: Kept | None = None) -> None:
        self._memory = memory
        self._kept = kept
        self._salt = secrets.token_bytes(32)
        self._has_salt = kept is None
        self._flights: dict[bytes, _Flight] = {}
        self._hits = self._misses = 0

    @property
    def outlives(self) -> bool:
        """Whether its answers outlive the process."""
        return self._kept is not None

    async def key(self, *parts: bytes) -> bytes:
        """The key of what depends on these and nothing else."""
        if not self._has_salt and self._kept is not None:
            salt = await self._kept.salt()
            if salt is not None:
                self._salt, self._has_salt = salt, True
        # Encoded with their lengths, so that no part can pass for another's end.
        return hashlib.blake2b(msgspec.msgpack.encode(parts), key=self._salt, digest_size=32).digest()

    async def find(self, key: bytes) -> Entry | None:
        """An answer, if there is one; that is counted as a hit."""
        entry = self._memory.get(key)
        if entry is None and self._kept is not None:
            found = await self._kept.get(key)
            if found is not None:
                entry = found[0]
                self._memory.put(key, *found)
        if entry is not None:
            self._hits += 1
        return entry

    def put(self, key: bytes, entry: Entry) -> bool:
        """Keep an answer, if it is not too large; whether it is kept."""
        in_memory = self._memory.put(key, entry)
        kept = self._kept is not None and self._kept.put(key, entry)
        return in_memory or kept

    def missed(self) -> None:
        """A call asks."""
        self._misses += 1

    async def together(
        self, key: bytes, ask: Callable[[], Awaitable[Entry | None]], left: Callable[[], float | None]
    ) -> Entry | None:
        """Wait for the one call that asks this now, or be it.

        Args:
            key: What is asked.
            ask: Asks; gives the answer, or None when it may not be given to others. It runs in a task of
                its own, and goes on while anybody waits for it.
            left: Seconds that the one who waits has left; None is no limit.

        Returns:
            The answer of another's call, counted as a hit; None when that was no other's, or none may be
            given to others.

        Raises:
            DspexError: What that call ended with. Another's says nothing of what that one has paid.
            TimeoutError: The time of the one who waits is over.
        """
        while True:
            flight, leads = self._flights.get(key), False
            if flight is None:
                leads = True
                flight = self._flights[key] = _Flight(asyncio.ensure_future(ask()))
                flight.task.add_done_callback(lambda task: self._landed(key, task))
            try:
                entry = await self._landing(flight, None if leads else left())
            except DspexError as error:
                if leads:
                    raise
                if isinstance(error, _ITS_OWN):
                    continue
                shared = copy.copy(error)
                shared.request_id = None  # each caller's own is filled in
                shared.details = {name: value for name, value in error.details.items() if name not in _PAID}
                raise shared from None
            except asyncio.CancelledError:
                if leads or not flight.task.cancelled() or _is_cancelled():
                    raise
                continue
            if not leads and entry is not None:
                self._hits += 1
            if leads or entry is not None:
                return entry
            return None

    def _landed(self, key: bytes, task: asyncio.Task[Entry | None]) -> None:
        self._flights.pop(key, None)
        if not task.cancelled():
            task.exception()  # all may have left, and asyncio would complain that nobody looked

    @staticmethod
    async def _landing(flight: _Flight, seconds: float | None) -> Entry | None:
        flight.waiting += 1
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                flight.task.cancel()

    @property
    def stats(self) -> CacheStats:
        """How it stands."""
        return CacheStats(self._hits, self._misses, *self._memory.counted)

    async def aclose(self) -> None:
        """Let go of everything."""
        for flight in list(self._flights.values()):
            flight.task.cancel()
        if self._kept is not None:
            await self._kept.aclose()
