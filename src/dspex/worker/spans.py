"""What a call that is traced tells of itself: its spans as plain data, for which a worker needs no library.

They go to the supervisor while the call runs, so that one whose worker is killed has told where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from dspex.types import SpanRecord
from dspex.wire.messages import Spans as Told
from dspex.worker import faults

# Seconds after which what has not been told yet is: a call that hangs has said where.
_SOON = 0.1
# Spans of one call; a program that asks for ever does not fill the supervisor's memory.
MOST = 2000

# Number of the span that this code is in; 0 before the first.
_here: ContextVar[int | None] = ContextVar("dspex_span", default=None)


class Span:
    """One span, from when it begins.

    Attributes:
        number: Its number in the call; 0 of one too many, which is not told.
    """

    __slots__ = ("_attributes", "_before", "_client", "_events", "_name", "_of", "_started", "number")

    def __init__(
        self, of: Spans, number: int, name: str, attributes: dict[str, Any], *, client: bool, inside: bool
    ) -> None:
        self.number = number
        self._of = of
        self._name = name
        self._attributes = attributes
        self._events: list[tuple[str, float, dict[str, Any]]] = []
        self._client = client
        self._started = time.monotonic()
        self._before = of.here()
        if inside:
            _here.set(number or self._before)
        of.tell(self._record(None, None))

    def set(self, **attributes: Any) -> None:
        """Add attributes: those with a dot in their name are given as ``**{...}``; None is nothing known."""
        self._attributes.update({name: value for name, value in attributes.items() if value is not None})

    def event(self, name: str, attributes: dict[str, Any]) -> None:
        """Something has happened within it."""
        self._events.append((name, time.monotonic(), attributes))

    def end(self, error: str | None = None) -> None:
        """It has ended; with the code or the class of what it failed with."""
        if _here.get() == self.number:
            _here.set(self._before)
        self._of.tell(self._record(time.monotonic(), error))

    def _record(self, ended: float | None, error: str | None) -> SpanRecord:
        return SpanRecord(
            self.number,
            self._before,
            self._name,
            self._started,
            ended,
            dict(self._attributes),
            error,
            list(self._events) if ended is not None else [],
            self._client,
        )


class Spans:
    """The spans of one call. Made on the worker's loop, used from any of its threads.

    Args:
        call: Number of the call.
        send: Sends a message to the supervisor; on the loop only.
        content: Whether they are to have what was said.

    Attributes:
        content: As given.
    """

    def __init__(self, call: int, send: Callable[[Told], None], *, content: bool) -> None:
        self.content = content
        self._call = call
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._untold: list[SpanRecord] = []
        self._timer: asyncio.TimerHandle | None = None
        self._outermost = 0

    def here(self) -> int:
        """Number of the span that this code is in: in a thread that knows of none, the outermost."""
        number = _here.get()
        return self._outermost if number is None else number

    def begin(
        self, name: str, attributes: dict[str, Any], *, client: bool = False, inside: bool = True
    ) -> Span:
        """Begin a span, which has to be ended.

        Args:
            name: Its name.
            attributes: What is known of it.
            client: Whether it waits for another system.
            inside: Whether what this code begins before its end is in it.
        """
        number = next(self._numbers)
        span = Span(self, number if number <= MOST else 0, name, attributes, client=client, inside=inside)
        if not self._outermost:
            self._outermost = span.number
        return span

    @contextmanager
    def span(self, name: str, attributes: dict[str, Any]) -> Iterator[Span]:
        """A span that is told at once, ends with its block, and fails with it."""
        span = self.begin(name, attributes)
        self.tell_now()
        try:
            yield span
        except BaseException as error:
            span.end(error_type(error))
            raise
        span.end()

    def tell(self, record: SpanRecord) -> None:
        """Have the supervisor know, soon."""
        if not record.number:
            return
        with self._lock:
            first = not self._untold
            self._untold.append(record)
        if first:
            self._on_loop(self._wait)

    def tell_now(self) -> None:
        """Have the supervisor know at once."""
        self._on_loop(self.flush)

    async def told(self) -> None:
        """Wait until the supervisor can know, before something that may end this process."""
        if threading.get_ident() == self._thread:
            await self._flushed()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SOON):
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._flushed(), self._loop))

    def told_from_thread(self) -> None:
        """``told`` where nothing is awaited; on the worker's loop it cannot wait."""
        if threading.get_ident() == self._thread:
            self.flush()
            return
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._flushed(), self._loop).result(_SOON)

    async def _flushed(self) -> None:
        self.flush()
        await asyncio.sleep(0)  # the channel sends what came in one turn of the loop at its end

    def _on_loop(self, function: Callable[[], None]) -> None:
        if threading.get_ident() == self._thread:
            function()
        else:
            self._loop.call_soon_threadsafe(function)

    def _wait(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(_SOON, self.flush)

    def flush(self) -> None:
        """Tell all of it now; on the loop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        with self._lock:
            records, self._untold = self._untold, []
        if not records:
            return
        ended = {record.number for record in records if record.ended is not None}
        told = [record for record in records if record.ended is not None or record.number not in ended]
        try:
            self._send(Told(self._call, told))
        except Exception:  # noqa: BLE001 (an attribute that cannot travel costs the spans, and not the call)
            bare = [_bare(record) for record in told]
            self._send(Told(self._call, bare))


def _bare(record: SpanRecord) -> SpanRecord:
    return SpanRecord(
        record.number, record.parent, ascii(record.name), record.started, record.ended, client=record.client
    )


def error_type(error: BaseException) -> str:
    """What an exception is called in ``error.type``: its code, or its class."""
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    if isinstance(error, faults.Ended):
        return error.error.code
    kind = faults.kind_of(error)
    return type(error).__qualname__ if kind is None else kind.code


def is_sampled(trace: str) -> bool:
    """Whether anybody keeps the spans of a call, by its ``traceparent``."""
    return bool(trace) and bool(int(trace[-2:], 16) & 1)


def join(trace: str) -> None:
    """Have what the program itself traces, with OpenTelemetry in this worker, belong to the call's trace."""
    if not trace or "opentelemetry.trace" not in sys.modules:
        return
    from opentelemetry import context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context.attach(TraceContextTextMapPropagator().extract({"traceparent": trace}))
