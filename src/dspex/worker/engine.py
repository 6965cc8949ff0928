"""Every LM request of a worker passes here: the one place that sends, retries, prices and counts.

DSPy's own engines do the talking (``routing`` sets them up); here each request is retried and recorded in
the call that made it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import random
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import dspy
from dspy._vendor.lm15.serde import part_to_dict
from dspy.clients.errors import wrap_error
from dspy.clients.lm15_boundary import history_messages
from dspy.lm15 import (
    LM15Error,
    LockTimeoutError,
    RateLimitError,
    ServerError,
    TransportError,
)
from dspy.lm15 import TimeoutError as RequestTimeout

from dspex.errors import DspexError
from dspex.types import LMRequest, LMSpec, Usage
from dspex.worker import faults, genai, listening, streamed
from dspex.worker.outflow import Outflow
from dspex.worker.prices import Prices
from dspex.worker.spans import Span, Spans
from dspex.worker.threads import in_thread

_RETRYABLE = (RateLimitError, RequestTimeout, ServerError, TransportError, LockTimeoutError)


#: Gives US dollars for one token sent and for one generated; None when nobody knows.
Rates = Callable[[], "tuple[float, float] | None"]


class Door(Protocol):
    """The way of a call's LM requests to the supervisor, which counts them and may make them wait."""

    async def enter(self, scope: CallScope, spec: LMSpec, request: Any, rates: Rates) -> int:
        """Wait until a request may be sent; gives what ``leave`` is told."""

    def enter_from_thread(self, scope: CallScope, spec: LMSpec, request: Any, rates: Rates) -> int:
        """``enter`` for a thread that is not the loop's."""

    def leave(
        self,
        scope: CallScope,
        spec: LMSpec,
        ask: int,
        *,
        sent: float | None,
        status: str,
        retry_after: float | None,
        record: LMRequest | None,
    ) -> None:
        """Tell what became of an attempt; from any thread."""


class Callbacks(Protocol):
    """The way to the functions of a call's caller."""

    async def call(self, scope: CallScope, tool: str, args: dict[str, Any]) -> Any:
        """Have a function of the caller's called; see ``callbacks.WorkerCallbacks``."""

    def call_from_thread(self, scope: CallScope, tool: str, args: dict[str, Any]) -> Any:
        """``call`` for a thread that is not the loop's."""


@dataclass(slots=True)
class CallScope:
    """What the running call knows of itself, wherever in the program a request is made.

    Attributes:
        door: The way of its LM requests.
        call: Its number.
        deadline: Monotonic second at which it ends; None never.
        seat: Number of the gate where its first request has its permit already; 0 for none.
        callbacks: The way to its caller's functions; None where there are no callers.
        tool_calls: What became of each tool that it has called, to be told in its answer.
        messages: What each of its LM requests sent and got, when its caller wants to know; else None.
        built: Seconds that building its program took; 0.0 when it was there.
        stream: The way of what it tells while it runs; None of a call that does not stream.
        asks: Whether each of its LM requests has to ask, because it has a budget.
        spans: Its spans; None of a call that nobody traces.
    """

    door: Door
    call: int = 0
    deadline: float | None = None
    seat: int = 0
    callbacks: Callbacks | None = None
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    messages: list[dict[str, Any]] | None = None
    built: float = 0.0
    stream: Outflow | None = None
    asks: bool = False
    spans: Spans | None = None


current: ContextVar[CallScope] = ContextVar("dspex_call")
#: The call of a worker that has one call only, for requests that its program makes in threads of its own.
alone: CallScope | None = None
#: By this name DSPy's context has it too: ``dspy.Parallel`` takes that one to its threads, and no other.
IN_DSPY = "dspex_call"


def scope_of_call() -> CallScope:
    """The call that makes a request, or calls a function of its caller's.

    Raises:
        RuntimeError: It is made in a thread that knows of no call, where others run as well.
    """
    scope = current.get(None) or dspy.settings.get(IN_DSPY) or alone
    if scope is None:
        raise RuntimeError(
            "an LM or a tool was asked from a thread that does not know its call; start it with "
            "contextvars.copy_context().run, or do not declare the program shared"
        )
    found: CallScope = scope
    return found


class _Attempts:
    """One LM request, from its first attempt to its last.

    Args:
        engine: The engine that makes it.
        request: What is asked.
    """

    __slots__ = ("_engine", "_request", "_retries", "_span", "_started", "reading", "scope")

    def __init__(self, engine: _Engine, request: Any) -> None:
        self.scope = scope_of_call()
        self.reading = listening.reading() if self.scope.stream is not None else None
        self._engine = engine
        self._request = request
        self._retries = 0
        self._started = time.monotonic()
        self._span: Span | None = None
        if (spans := self.scope.spans) is not None:
            stream = self.reading is not None
            named = genai.of_request(engine.spec, request, stream=stream, content=spans.content)
            self._span = spans.begin(*named, client=True, inside=False)

    def after(self, ask: int, sent: float, outcome: Any) -> float | None:
        """Settle an attempt.

        Args:
            ask: What entering the door gave.
            sent: Monotonic second at which it was sent.
            outcome: The response, or what was raised.

        Returns:
            Seconds until the next attempt; None when the request has its response.

        Raises:
            BaseException: The outcome, when there will be no other attempt.
        """
        failed = isinstance(outcome, BaseException)
        status = _status(outcome, self._engine.spec.model) if failed else "ok"
        retry_after = getattr(outcome, "retry_after", None)
        pause = self._pause(outcome) if isinstance(outcome, LM15Error) else None
        record = None if pause is not None else self._record(outcome, status)
        if record is not None and self.scope.stream is not None and not failed:
            self.scope.stream.usage(record.usage)
        self._leave(ask, sent, status, retry_after, record)
        if self._span is not None:
            if self.reading is not None and self.reading.began is not None:
                self._span.set(**{"gen_ai.response.time_to_first_chunk": self.reading.began - sent})
            genai.settle(self._span, self.scope.spans, outcome, status, self._retries, pause, record)
        if self.scope.messages is not None:
            self.scope.messages.append(_written(self._engine.spec, self._request, outcome, status))
        if pause is not None:
            self._retries += 1
            if self.reading is not None:
                self.reading.began = None
        elif failed:
            if isinstance(outcome, LM15Error):
                outcome.model = self._engine.spec.asked  # which is shown; engines have names of their own
            raise outcome
        return pause

    def given_up(self, error: BaseException) -> None:
        """Record the request when it ends while it waits for its next attempt."""
        status = _status(error, self._engine.spec.model)
        if self._retries:
            self._leave(0, None, status, None, self._record(error, status))
        if self._span is not None:
            self._span.end(status)

    def _leave(
        self, ask: int, sent: float | None, status: str, retry_after: float | None, record: LMRequest | None
    ) -> None:
        self.scope.door.leave(
            self.scope,
            self._engine.spec,
            ask,
            sent=sent,
            status=status,
            retry_after=retry_after,
            record=record,
        )

    def _pause(self, error: LM15Error) -> float | None:
        """Seconds to wait before the next attempt; None when there is none, or no time for it."""
        retry = self._engine.spec.retry
        if self._retries + 1 >= retry.attempts or not isinstance(error, _RETRYABLE):
            return None
        if self.reading is not None and self.reading.sent:
            return None  # what was told cannot be taken back
        if error.retry_after is not None:
            pause = error.retry_after
        else:
            pause = min(retry.wait * 2**self._retries, retry.max_wait) * random.uniform(0.5, 1.0)
        deadline = self.scope.deadline
        return pause if deadline is None or time.monotonic() + pause < deadline else None

    def _record(self, outcome: Any, status: str) -> LMRequest:
        seconds = time.monotonic() - self._started
        wanted = self._engine.spec.asked
        if isinstance(outcome, BaseException):
            return LMRequest(wanted, Usage(), seconds, status, self._retries, asked=wanted)
        usage = Usage(outcome.usage.input_tokens or 0, outcome.usage.output_tokens or 0)
        cost = self._engine.prices.of(outcome, self._request)
        model = outcome.model or wanted
        finish = outcome.finish_reason
        return LMRequest(model, usage, seconds, status, self._retries, cost, finish, wanted)


def _written(spec: LMSpec, request: Any, outcome: Any, status: str) -> dict[str, Any]:
    """One attempt of a request in words. A request has no key: that is the engine's."""
    written = {"model": spec.asked, "messages": history_messages(request), "status": status}
    if isinstance(outcome, BaseException):
        return {**written, "reply": None}
    calls = [part_to_dict(part) for part in outcome.message.parts if part.type == "tool_call"]
    return {**written, "reply": outcome.text, **({"tool_calls": calls} if calls else {})}


class _Engine:
    """What the sync and the async engine share."""

    supports_function_calling: bool
    supports_reasoning: bool
    supports_response_schema: bool
    supported_params: frozenset[str]

    def __init__(
        self, spec: LMSpec, provider: str | None, engine: Any, prices: tuple[str, ...] | None = None
    ) -> None:
        self.spec = spec
        self.prices = Prices(spec, provider, prices)
        self._provider = provider
        self._engine = engine


def _status(error: BaseException, model: str) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    if isinstance(error, DspexError):
        return error.code  # the door's: it was not sent
    if isinstance(error, Exception):
        kind = faults.kind_of(error) or faults.kind_of(wrap_error(error, model=model))
        return kind.code if kind else "python_error"
    return type(error).__name__


class Counted(_Engine):
    """One LM's synchronous engine."""

    def complete(self, request: Any) -> Any:
        """Send the request, again if it failed in a way that may pass, and record it."""
        attempts = _Attempts(self, request)
        scope = attempts.scope
        while True:
            try:
                ask = scope.door.enter_from_thread(scope, self.spec, request, self.prices.rates)
            except BaseException as error:
                attempts.given_up(error)
                raise
            sent = time.monotonic()
            try:
                outcome = self._once(attempts, request)
            except BaseException as error:  # noqa: BLE001 (raised again by `after`)
                outcome = error
            pause = attempts.after(ask, sent, outcome)
            if pause is None:
                return outcome
            time.sleep(pause)

    def _once(self, attempts: _Attempts, request: Any) -> Any:
        reading, stream = attempts.reading, attempts.scope.stream
        if reading is None or stream is None:
            return self._engine.complete(request)
        return streamed.blocking(self._engine, request, self._provider, reading, stream)

    def close(self) -> None:
        """Close the connections."""
        if hasattr(self._engine, "close"):
            self._engine.close()


class CountedAsync(_Engine):
    """One LM's asynchronous engine, on the worker's loop."""

    def __init__(
        self, spec: LMSpec, provider: str | None, engine: Any, prices: tuple[str, ...] | None = None
    ) -> None:
        super().__init__(spec, provider, engine, prices)
        self._is_async = inspect.iscoroutinefunction(engine.complete)

    async def complete(self, request: Any) -> Any:
        """Send the request, again if it failed in a way that may pass, and record it."""
        attempts = _Attempts(self, request)
        scope = attempts.scope
        pause: float | None = 0.0
        while True:
            try:
                if pause:
                    await asyncio.sleep(pause)
                ask = await scope.door.enter(scope, self.spec, request, self.prices.rates)
            except BaseException as error:
                attempts.given_up(error)
                raise
            sent = time.monotonic()
            try:
                outcome = await self._once(attempts, request)
            except BaseException as error:  # noqa: BLE001 (raised again by `after`)
                outcome = error
            pause = attempts.after(ask, sent, outcome)
            if pause is None:
                return outcome

    async def _once(self, attempts: _Attempts, request: Any) -> Any:
        if self.spec.timeout is None:
            return await self._asked(attempts, request)
        try:
            async with asyncio.timeout(self.spec.timeout):
                return await self._asked(attempts, request)
        except TimeoutError as error:
            if isinstance(error, LM15Error):  # the provider's own, a subclass of both
                raise
            raise RequestTimeout(
                f"no answer within the profile's timeout of {self.spec.timeout:g} s"
            ) from error

    async def _asked(self, attempts: _Attempts, request: Any) -> Any:
        reading, stream = attempts.reading, attempts.scope.stream
        if reading is None or stream is None:
            return await self._ask(request)
        if not self._is_async or not hasattr(self._engine, "stream"):
            return await streamed.told(await self._ask(request), reading, stream)
        return await streamed.awaited(self._engine, request, self._provider, reading, stream)

    async def _ask(self, request: Any) -> Any:
        if self._is_async:
            return await self._engine.complete(request)
        # A synchronous engine waits for its gateway: on the loop it would stop every other call.
        outcome = await in_thread(None, functools.partial(self._engine.complete, request))
        return await outcome if inspect.isawaitable(outcome) else outcome

    async def aclose(self) -> None:
        """Close the connections."""
        if hasattr(self._engine, "aclose"):
            await self._engine.aclose()
