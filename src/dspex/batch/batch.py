"""Many items through one program: an outcome for each, and no more under way than can run."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sized
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from dspex.batch.adaptive import Window
from dspex.batch.journal import Journal, Record
from dspex.batch.outcome import BatchProgress, Outcome
from dspex.batch.writer import Writer
from dspex.errors import (
    BudgetExceeded,
    Cancelled,
    DspexError,
    LMRateLimited,
    PoolSaturated,
    QueueTimeout,
    RateLimited,
    from_wire,
)

R = TypeVar("R")
#: Items: a list, an iterator, or an asynchronous one, whose length need not be known.
Items = Iterable[Any] | AsyncIterable[Any]
# What says that too much is asked at once. It is no failure of the item, which is asked again.
_BUSY = (LMRateLimited, RateLimited, PoolSaturated, QueueTimeout)
# How often one item is asked again for that.
_PATIENCE = 50
_LONGEST_PAUSE = 30.0
# Seconds between two tellings of progress, and over which the rate is taken.
_OFTEN = 0.1
_LATELY = 10.0


class Asked(Protocol, Generic[R]):
    """What a batch asks, of which it knows nothing else."""

    async def ask(self, item: Any) -> R:
        """The response to an item."""

    def fingerprint(self, item: Any) -> str:
        """An item's fingerprint in hex, the same in every process.

        Raises:
            DspexError: It is none that could be asked.
        """

    def kept(self, response: R) -> dict[str, Any]:
        """What a journal keeps of a response: data that JSON has."""

    def rebuilt(self, kept: dict[str, Any]) -> R:
        """A response from what was kept of it."""

    def spent(self, response: R) -> tuple[int, float | None]:
        """Its tokens, and US dollars if the price is known."""


@dataclass(frozen=True, slots=True)
class How:
    """How a batch is run.

    Attributes:
        most: Tells how many items can be under way now.
        retries: How often an item is asked again after an error that may pass.
        retry_failed: Whether items that have failed, by the journal, are asked again.
        max_errors: The batch stops when so many items have failed; None never.
        max_cost: The batch stops when it has cost so many US dollars; None never.
        progress: Told how far it is.
    """

    most: Callable[[], int]
    retries: int = 0
    retry_failed: bool = False
    max_errors: int | None = None
    max_cost: float | None = None
    progress: Callable[[BatchProgress], None] | None = None


class Batch(Generic[R]):
    """One run over items; iterate over it once, and close it.

    Args:
        items: The items.
        asked: What is asked.
        how: How it is run.
        journal: Where outcomes are kept; None keeps none.
    """

    def __init__(self, items: Items, asked: Asked[R], how: How, journal: Journal | None = None) -> None:
        self._items = items
        self._asked = asked
        self._how = how
        self._window = Window(how.most)
        self._writer = None if journal is None else Writer(journal)
        self._tally: Tally[R] = Tally(len(items) if isinstance(items, Sized) else None, how.progress)
        self._running: set[asyncio.Task[None]] = set()
        self._ended: deque[Outcome[R] | BaseException] = deque()
        self._changed = asyncio.Event()
        self._stopped: DspexError | None = None

    @property
    def counted(self) -> tuple[int, int]:
        """How many items were answered, and how many have failed."""
        return self._tally.ok, self._tally.failed

    def drain(self) -> None:
        """Ask nothing more; what is under way ends. The rest has no outcome."""
        self._stopped = Cancelled("the batch was stopped before this item")
        self._changed.set()

    async def outcomes(self) -> AsyncIterator[Outcome[R]]:
        """The outcomes as they come. To leave it early stops what is under way.

        Raises:
            StoreError: The journal cannot be written; what it has is not lost.
            Exception: Whatever the iterator of items raises.
        """
        items = aiter(_one_by_one(self._items))
        index, left = 0, True
        try:
            while True:
                while left and self._stopped is None and self._may_ask():
                    try:
                        item = await anext(items)
                    except StopAsyncIteration:
                        left = False
                        break
                    self._begin(index, item)
                    index += 1
                while self._ended:
                    outcome = self._ended.popleft()
                    if isinstance(outcome, BaseException):
                        raise outcome
                    self._tally.count(outcome, self._asked, self._window.size)
                    self._check_limits()
                    yield outcome
                if not self._running and not self._ended and (not left or self._stopped is not None):
                    break
                self._changed.clear()
                if not self._ended and not (left and self._stopped is None and self._may_ask()):
                    await self._wait()
            self._tally.end(self._window.size)
        finally:
            await self._close()

    def rest(self, index: int) -> Outcome[R]:
        """The outcome of an item that was not asked because the batch stopped."""
        error = self._stopped or Cancelled("the batch was stopped before this item")
        return Outcome(index=index, error=type(error)(error.message, details=dict(error.details)))

    def _may_ask(self) -> bool:
        under_way = len(self._running) + len(self._ended)
        return under_way < self._window.size and not self._window.pause

    async def _wait(self) -> None:
        pause = self._window.pause
        try:
            async with asyncio.timeout(pause or None):
                await self._changed.wait()
        except TimeoutError:
            return

    def _begin(self, index: int, item: Any) -> None:
        task = asyncio.create_task(self._one(index, item))
        self._running.add(task)
        task.add_done_callback(self._on_end)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._ended.append(error)
        self._changed.set()

    # One item

    async def _one(self, index: int, item: Any) -> None:
        try:
            name = self._asked.fingerprint(item) if self._writer is not None else ""
        except DspexError as error:
            self._ended.append(Outcome(index=index, error=error))
            return
        if (
            self._writer is not None
            and (found := await self._recorded(self._writer, index, name)) is not None
        ):
            self._ended.append(found)
            return
        outcome: Outcome[R]
        try:
            response = await self._ask(item)
            outcome = Outcome(index=index, response=response)
        except DspexError as error:
            outcome = Outcome(index=index, error=error)
        if self._writer is not None:
            await self._writer.append(self._record(outcome, name))
        self._ended.append(outcome)

    async def _ask(self, item: Any) -> R:
        """Ask, and again after errors that may pass.

        Raises:
            DspexError: The last of them.
        """
        tries = refusals = 0
        while True:
            try:
                response = await self._asked.ask(item)
            except _BUSY as error:
                self._window.refused(error.retry_after)
                refusals += 1
                if refusals > _PATIENCE:
                    raise
                await self._rest()
            except DspexError as error:
                if not error.retryable or tries >= self._how.retries:
                    raise
                pause = error.retry_after or min(0.5 * 2**tries, _LONGEST_PAUSE)
                tries += 1
                await asyncio.sleep(pause * random.uniform(0.8, 1.2))
            else:
                self._window.succeeded()
                return response

    async def _rest(self) -> None:
        """Wait until the provider may be asked again, and not all at the same moment."""
        pause = self._window.pause
        while pause:
            await asyncio.sleep(pause + random.uniform(0, 0.1))
            pause = self._window.pause

    async def _recorded(self, writer: Writer, index: int, name: str) -> Outcome[R] | None:
        """An item's outcome by the journal; None when it is to be asked."""
        record = await writer.find(index)
        if record is None or record.item != name:
            return None  # the item at this place has changed
        if record.response is not None:
            return Outcome(index=index, response=self._asked.rebuilt(record.response), from_journal=True)
        if self._how.retry_failed or record.error is None:
            return None
        return Outcome(index=index, error=from_wire(record.error), from_journal=True)

    def _record(self, outcome: Outcome[R], name: str) -> Record:
        if outcome.error is None:
            assert outcome.response is not None
            return Record(outcome.index, name, response=self._asked.kept(outcome.response))
        return Record(outcome.index, name, error=outcome.error.to_wire())

    # Its end

    def _check_limits(self) -> None:
        how, tally = self._how, self._tally
        if self._stopped is not None:
            return
        if how.max_errors is not None and tally.failed >= how.max_errors:
            self._stopped = Cancelled(
                f"the batch was stopped before this item: {tally.failed} items have failed (max_errors); "
                "mend what is wrong and go on with the same journal and retry_failed=True"
            )
        elif how.max_cost is not None and tally.cost >= how.max_cost:
            self._stopped = BudgetExceeded(
                f"the batch was stopped before this item: it has cost ${tally.cost:.6g} "
                f"(max_cost={how.max_cost:g}); raise it and go on with the same journal",
                details={"cost": tally.cost},
            )

    async def _close(self) -> None:
        for task in self._running:
            task.cancel()
        while self._running:
            await asyncio.wait(self._running)
        if self._writer is not None:
            await self._writer.aclose()


class Tally(Generic[R]):
    """Counts outcomes, and tells of them.

    Args:
        total: How many items there are; None when nobody knows.
        told: Who is told; None is nobody.
    """

    def __init__(self, total: int | None, told: Callable[[BatchProgress], None] | None) -> None:
        self.ok = self.failed = self.recorded = self.tokens = 0
        self.cost = 0.0
        self._total = total
        self._told = told
        self._last = 0.0
        self._seen: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    def count(self, outcome: Outcome[R], asked: Asked[R], at_once: int) -> None:
        """Count an outcome."""
        if outcome.response is not None:
            self.ok += 1
            tokens, cost = asked.spent(outcome.response)
            self.tokens += tokens
            self.cost += cost or 0.0
        else:
            self.failed += 1
        self.recorded += outcome.from_journal
        now = time.monotonic()
        if self._told is not None and now - self._last >= _OFTEN:
            self._last = now
            self._tell(self._told, now, at_once)

    def end(self, at_once: int) -> None:
        """Tell where it has ended."""
        if self._told is not None:
            self._tell(self._told, time.monotonic(), at_once)

    def _tell(self, told: Callable[[BatchProgress], None], now: float, at_once: int) -> None:
        done = self.ok + self.failed
        asked = done - self.recorded
        self._seen.append((now, asked))
        while len(self._seen) > 2 and now - self._seen[0][0] > _LATELY:
            self._seen.popleft()
        begun, before = self._seen[0]
        rate = (asked - before) / (now - begun) if now > begun else 0.0
        left = None
        if self._total is not None and rate > 0:
            left = (self._total - done) / rate
        told(
            BatchProgress(
                done=done,
                ok=self.ok,
                failed=self.failed,
                total=self._total,
                recorded=self.recorded,
                tokens=self.tokens,
                cost=self.cost,
                rate=rate,
                seconds_left=left,
                at_once=at_once,
            )
        )


async def _one_by_one(items: Items) -> AsyncIterator[Any]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
