"""The outcomes of a batch, for threads and for event loops."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

from dspex.adapter.response import Response
from dspex.batch.batch import Batch
from dspex.batch.outcome import Outcome

T = TypeVar("T")
#: The outcome of one item of an adapter's batch.
Ended = Outcome[Response]
Open = Callable[[], Coroutine[Any, Any, "Run"]]
# Seconds after which a thread that waits looks up, so that Ctrl-C is seen.
_LOOK_UP = 0.5


class Run:
    """An open batch.

    Args:
        batch: The batch.
        total: How many items there are; None when nobody knows.
        close: Called when it has ended, however.
    """

    def __init__(self, batch: Batch[Response], total: int | None, close: Callable[[], None]) -> None:
        self.batch = batch
        self.outcomes = batch.outcomes()
        self._total = total
        self._close = close
        self._reading: asyncio.Task[Ended] | None = None
        self._closed = False

    async def next(self) -> Ended:
        """The next outcome.

        Raises:
            StopAsyncIteration: There is none, or the batch was closed meanwhile.
        """
        if self._reading is not None:
            raise RuntimeError("somebody waits for an outcome of this batch already")
        # A task of its own: whoever closes the batch stops it, and not the task of the reader.
        self._reading = asyncio.create_task(self._next())
        try:
            return await self._reading
        except asyncio.CancelledError:
            reader = asyncio.current_task()
            # A reader that was cancelled himself ends as cancelled, also when the batch is closed meanwhile.
            if self._closed and (reader is None or not reader.cancelling()):
                raise StopAsyncIteration from None
            raise
        finally:
            self._reading = None

    async def _next(self) -> Ended:
        return await anext(self.outcomes)

    async def whole(self) -> list[Ended]:
        """All outcomes in order, those of items included that were not asked because the batch stopped."""
        try:
            ended = {outcome.index: outcome async for outcome in self.outcomes}
        finally:
            await self.aclose()
        count = len(ended) if self._total is None else self._total
        return [ended.get(index) or self.batch.rest(index) for index in range(count)]

    async def aclose(self) -> None:
        """Stop what is under way. Safe to repeat."""
        self._closed = True
        try:
            if self._reading is not None:
                self._reading.cancel()
                await asyncio.wait([self._reading])
            await self.outcomes.aclose()  # type: ignore[attr-defined]
        finally:
            self._close()


class AsyncOutcomes:
    """The outcomes of ``adapter.abatch(..., as_completed=True)`` as they come; ``async for`` reads them.

    Without ``as_completed`` it is awaited, and gives them as a list. To leave it early stops the batch.
    """

    def __init__(self, opened: Open, *, as_completed: bool) -> None:
        self._open = opened
        self._as_completed = as_completed
        self._run: Run | None = None

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._awaited().__await__()

    async def _awaited(self) -> Any:
        if self._as_completed:
            return self
        return await (await self._open()).whole()

    def __aiter__(self) -> AsyncIterator[Ended]:
        return self

    async def __anext__(self) -> Ended:
        if self._run is None:
            self._run = await self._open()
        try:
            return await self._run.next()
        except BaseException:
            await self.aclose()
            raise

    def drain(self) -> None:
        """Ask nothing more; what is under way ends."""
        if self._run is not None:
            self._run.batch.drain()

    async def aclose(self) -> None:
        """Stop what is under way. Safe to repeat."""
        if self._run is not None:
            await self._run.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class Outcomes:
    """The outcomes of ``adapter.batch(..., as_completed=True)`` as they come: an iterator.

    To leave its ``with``, to ``close()`` and to drop it stop the batch; what the journal has is kept.
    """

    def __init__(self, opened: Open) -> None:
        self._open = opened
        self._loop = _Loop()
        self._run: Run | None = None
        self._over = False

    def __iter__(self) -> Iterator[Ended]:
        return self

    def __next__(self) -> Ended:
        if self._over:
            raise StopIteration
        try:
            return self._loop.run(self._next())
        except StopAsyncIteration:
            self.close()
            raise StopIteration from None
        except BaseException:
            self.close()
            raise

    async def _next(self) -> Ended:
        if self._run is None:
            self._run = await self._open()
        return await self._run.next()

    def whole(self) -> list[Ended]:
        """All outcomes, in order."""

        async def all_of_them() -> list[Ended]:
            return await (await self._open()).whole()

        try:
            return self._loop.run(all_of_them())
        finally:
            self.close()

    def drain(self) -> None:
        """Ask nothing more; what is under way ends, and comes."""
        if self._run is not None:
            self._loop.call_soon(self._run.batch.drain)

    def close(self) -> None:
        """Stop what is under way. Safe to repeat."""
        if self._over:
            return
        self._over = True
        try:
            if self._run is not None:
                self._loop.run(self._run.aclose())
        finally:
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_over", True):
            self._over = True
            self._loop.abandon(self._run)


class _Loop:
    """An event loop on a thread of its own, so that a thread whose loop runs already can wait for it too."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # A daemon: an interpreter that ends with a batch open does not wait for it.
        self._thread = threading.Thread(target=self._serve, name="dspex-batch", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Wait for a coroutine; Ctrl-C cancels it."""
        going: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            while not going.done():
                with contextlib.suppress(TimeoutError):
                    going.exception(_LOOK_UP)
            return going.result()
        except BaseException:
            going.cancel()
            raise

    def call_soon(self, function: Callable[[], None]) -> None:
        """Call a function there."""
        self._loop.call_soon_threadsafe(function)

    def abandon(self, run: Run | None) -> None:
        """Stop a batch and end, without waiting: a garbage collection may call this anywhere."""

        async def stop() -> None:
            try:
                if run is not None:
                    await run.aclose()
            finally:
                self._loop.stop()

        with contextlib.suppress(RuntimeError):
            asyncio.run_coroutine_threadsafe(stop(), self._loop)

    def close(self) -> None:
        """End the loop and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
