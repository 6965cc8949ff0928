"""Streams: what happens in a call, as it happens, and then its response."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from dspex.adapter.response import Response
from dspex.media.turns import ToolCall
from dspex.runtime.feed import Ended
from dspex.runtime.question import seconds
from dspex.runtime.steps import Steps
from dspex.runtime.streams import LiveCall
from dspex.runtime.told import Delta, Started, Status, ToolResult
from dspex.types import Usage

if TYPE_CHECKING:
    from dspex.adapter.base import Base


class Final(msgspec.Struct, frozen=True):
    """The call has ended well; nothing comes after this.

    Attributes:
        response: The response, as ``generate`` gives it.
    """

    response: Response


Event = Started | Delta | Status | ToolCall | ToolResult | Usage | Final


class _Listened:
    def __init__(
        self,
        adapter: Base,
        steps: Steps[Response],
        first_token_timeout: float | None = None,
        idle_timeout: float | None = None,
    ) -> None:
        self._adapter = adapter
        self._call = LiveCall(
            steps,
            adapter._open.portal,
            adapter._route,
            seconds("first_token_timeout", first_token_timeout),
            seconds("idle_timeout", idle_timeout),
        )
        self._begun = False
        self._over = False
        self._final: Response | None = None
        self._version: int | None = None

    def __del__(self) -> None:
        call = getattr(self, "_call", None)
        if call is not None:
            call.cancel()

    @property
    def response(self) -> Response | None:
        """The response, once the stream has been read to its end."""
        return self._final

    @property
    def has_one_output(self) -> bool:
        """Whether the response has one output only, as far as is known by now."""
        return self._call.has_one_output

    def is_output(self, event: Event) -> bool:
        """Whether an event is a piece of one of the response's outputs, and not of an earlier stage's."""
        return isinstance(event, Delta) and event.stage == self._call.last_stage

    def _of_version(self, number: int) -> Self:
        """It as one of a program that has versions."""
        self._version = number
        return self

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._call.begin()

    def _leave(self) -> None:
        self._over = True
        self._call.cancel()

    def _end(self, ended: Ended) -> Final | None:
        """The last event; None after it.

        Raises:
            DspexError: What the call ended with.
        """
        if self._over:
            return None
        self._over = True
        if ended.error is not None:
            raise ended.error
        response: Response = ended.result
        if self._version is not None:
            response.program_version = self._version
        self._final = response
        return Final(response)


class Stream(_Listened):
    """The events of one call, in order, for threads; ``adapter.stream(...)`` gives one.

    An iterator and a context manager. The call begins when the first event is asked for, and its deadline
    counts from when the stream was made. To leave the ``with``, to ``close()``, and to drop it stop the work.

    Example:
        >>> with adapter.stream("Why?", signature="question -> answer") as stream:
        ...     for event in stream:
        ...         if isinstance(event, dspex.Delta):
        ...             print(event.text, end="")

    Attributes:
        response: The response, once it has been read to its end.
    """

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        self._adapter._open.portal.refuse_loop("astream")
        if self._over:
            raise StopIteration
        self._begin()
        try:
            event: Event = self._call.feed.take()
            return event
        except Ended as ended:
            end = ended
        except BaseException:  # Ctrl-C: nobody will read on
            self._leave()
            raise
        last = self._end(end)
        if last is None:
            raise StopIteration
        return last

    def text_stream(self) -> Iterator[str]:
        """The pieces of ``response.content``, and nothing else."""
        for event in self:
            if isinstance(event, Delta) and self._call.is_content(event):
                yield event.text

    def close(self) -> None:
        """Stop the work, and wait until it has ended. Safe to repeat."""
        self._over = True
        self._call.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncStream(_Listened):
    """The events of one call, in order, for event loops; ``adapter.astream(...)`` gives one.

    ``async for`` reads it, ``async with`` closes it at its end, and to await it gives itself. See ``Stream``.
    A task that is cancelled while it waits for an event stops the work, too.

    Attributes:
        response: The response, once it has been read to its end.
    """

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    def __await__(self) -> Generator[Any, Any, Self]:
        yield from ()
        return self

    async def __anext__(self) -> Event:
        if self._over:
            raise StopAsyncIteration
        self._begin()
        try:
            event: Event = await self._call.feed.atake()
            return event
        except Ended as ended:
            end = ended
        except BaseException:  # the task that reads was cancelled, and is over as a generator would be
            self._leave()
            raise
        last = self._end(end)
        if last is None:
            raise StopAsyncIteration
        return last

    async def text_stream(self) -> AsyncIterator[str]:
        """The pieces of ``response.content``, and nothing else."""
        async for event in self:
            if isinstance(event, Delta) and self._call.is_content(event):
                yield event.text

    async def aclose(self) -> None:
        """Stop the work, and wait until it has ended. Safe to repeat."""
        self._over = True
        await self._call.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
