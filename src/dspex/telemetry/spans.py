"""The spans of one call: its own, its wait, its runs, and what its workers tell of what went on in them."""

from __future__ import annotations

import contextvars
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from opentelemetry import context as contexts
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

from dspex.types import SpanRecord

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

P = ParamSpec("P")
R = TypeVar("R")
# More than a worker tells of one call; what comes on top is not believed.
_MOST = 5000
_FAILED = Status(StatusCode.ERROR)


def _guarded(method: Callable[Concatenate[CallSpans, P], R]) -> Callable[Concatenate[CallSpans, P], R | None]:
    """A step that costs a call nothing when a sampler or a processor of the application's fails."""

    @functools.wraps(method)
    def guarded(self: CallSpans, /, *args: P.args, **named: P.kwargs) -> R | None:
        try:
            return method(self, *args, **named)
        except Exception:  # noqa: BLE001 (it is code of the application's)
            self.tell_failure()
            return None

    return guarded


class CallSpans:
    """The spans of one call, from when it was asked to its one end. Used on the runtime's loop.

    Args:
        tell_failure: Called within the handling of whatever making or ending a span raised.
        tracer: Makes them.
        parent: What they belong in.
        name: The call's name.
        attributes: What is known of it.
        started: Monotonic second at which it was asked.
        content: Whether its worker is to tell what was said.

    Attributes:
        content: As given.
        tell_failure: As given.
        within: What belongs in it is given this.
    """

    def __init__(
        self,
        tell_failure: Callable[[], None],
        tracer: Tracer,
        parent: Context | None,
        name: str,
        attributes: Mapping[str, Any],
        started: float,
        *,
        content: bool,
    ) -> None:
        self.content = content
        self.tell_failure = tell_failure
        self._tracer = tracer
        self._offset = time.time_ns() - time.monotonic_ns()
        self._call = tracer.start_span(
            name, parent, attributes=_known(attributes), start_time=self._at(started)
        )
        self.within = set_span_in_context(self._call, parent)
        self._waits: float | None = None
        self._attempt = 0
        self._run: Span | None = None
        self._told: dict[int, Span] = {}
        self._going: set[int] = set()
        self._ended = False

    # What the pool tells; see ``pool.work.Trace``

    @_guarded
    def waits(self) -> None:
        """It waits for a worker."""
        self._waits = time.monotonic()

    def begun(self, worker: int, pid: int) -> str:
        """A worker has it.

        Returns:
            What that worker's spans belong in, as W3C's ``traceparent``.
        """
        return self._begun(worker, pid) or ""

    @_guarded
    def _begun(self, worker: int, pid: int) -> str:
        self._end_wait(None)
        self._attempt += 1
        said = {"dspex.worker": worker, "dspex.worker.pid": pid, "dspex.attempt": self._attempt}
        self._run = self._start("run", self.within, said, time.monotonic())
        run = self._run.get_span_context()
        if not run.is_valid:
            return ""
        return f"00-{run.trace_id:032x}-{run.span_id:016x}-{run.trace_flags:02x}"

    @_guarded
    def came(self, records: Sequence[SpanRecord]) -> None:
        """Its worker has told of spans."""
        if self._run is None:
            return
        for record in sorted(records, key=_number):
            span = self._told.get(record.number)
            if span is None:
                if len(self._told) >= _MOST:
                    continue
                within = set_span_in_context(self._told.get(record.parent, self._run), self.within)
                kind = SpanKind.CLIENT if record.client else SpanKind.INTERNAL
                span = self._start(record.name, within, record.attributes, record.started, kind)
                self._told[record.number] = span
                self._going.add(record.number)
            else:
                span.set_attributes(_known(record.attributes))
            for name, when, attributes in record.events:
                span.add_event(name, _known(attributes), self._at(when))
            if record.ended is not None and record.number in self._going:
                self._going.discard(record.number)
                self._end(span, record.error, record.ended)

    @_guarded
    def stopped(self, error: str | None) -> None:
        """Its worker runs it no more; what it had begun ends with that.

        Args:
            error: The code of why; None when it answered.
        """
        now = time.monotonic()
        going = [self._told[number] for number in sorted(self._going, reverse=True)]
        run, self._run = self._run, None
        self._told, self._going = {}, set()
        for span in going:
            self._end(span, error or "cancelled", now)
        if run is not None:
            self._end(run, error, now)

    def entered(self, context: contextvars.Context, number: int) -> contextvars.Context:
        """A copy of context variables in which a span of the worker's is the current one.

        Args:
            context: What a function of the caller's is run in.
            number: The worker's number of the span.
        """
        return self._entered(context, number) or context.copy()

    @_guarded
    def _entered(self, context: contextvars.Context, number: int) -> contextvars.Context:
        entered = context.copy()
        span = self._told.get(number, self._run or self._call)
        within = set_span_in_context(span, entered.run(contexts.get_current))
        entered.run(contexts.attach, within)
        return entered

    # Its end

    @_guarded
    def end(self, error: str | None, attributes: Mapping[str, Any]) -> None:
        """It has ended.

        Args:
            error: The code of its error; None when it has its answer.
            attributes: What is known of it by now.
        """
        if self._ended:
            return
        self._ended = True
        self.stopped(error)
        if self._waits is not None and error is not None:
            self._end_wait(error)
        self._call.set_attributes(_known(attributes))
        self._end(self._call, error, time.monotonic())

    def _end_wait(self, error: str | None) -> None:
        if self._waits is not None:
            span = self._start("queue", self.within, {}, self._waits)
            self._end(span, error, time.monotonic())
            self._waits = None

    def _start(
        self,
        name: str,
        within: Context,
        attributes: Mapping[str, Any],
        started: float,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> Span:
        return self._tracer.start_span(
            name, within, kind, attributes=_known(attributes), start_time=self._at(started)
        )

    @_guarded
    def _end(self, span: Span, error: str | None, ended: float) -> None:
        if error is not None:
            # No description: what an error says may be what a model or a caller has said.
            span.set_status(_FAILED)
            span.set_attribute("error.type", error)
        span.end(self._at(ended))

    def _at(self, second: float) -> int:
        """Nanoseconds since the epoch of a second on the machine's monotonic clock."""
        return int(second * 1e9) + self._offset


def _number(record: SpanRecord) -> int:
    return record.number


def _known(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}
