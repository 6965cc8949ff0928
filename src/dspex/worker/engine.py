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
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from dspy.clients.costs import estimate_cost
from dspy.clients.errors import wrap_error
from dspy.lm15 import (
    LM15Error,
    LockTimeoutError,
    RateLimitError,
    ServerError,
    TransportError,
)
from dspy.lm15 import TimeoutError as RequestTimeout

from dspex.types import LMRequest, LMSpec, Usage
from dspex.worker import faults
from dspex.worker.threads import in_thread

_RETRYABLE = (RateLimitError, RequestTimeout, ServerError, TransportError, LockTimeoutError)


@dataclass(slots=True)
class CallScope:
    """What the running call knows of itself, wherever in the program a request is made.

    Attributes:
        deadline: Monotonic second at which the call ends; None never.
        requests: The LM requests it has made.
    """

    deadline: float | None = None
    requests: list[LMRequest] = field(default_factory=list)


current: ContextVar[CallScope] = ContextVar("dspex_call")


class _Recorded:
    """What the sync and the async engine share: waits, prices, records."""

    supports_function_calling: bool
    supports_reasoning: bool
    supports_response_schema: bool
    supported_params: frozenset[str]

    def __init__(
        self, spec: LMSpec, provider: str | None, engine: Any, prices: tuple[str, ...] | None = None
    ) -> None:
        self._spec = spec
        self._provider = provider
        self._engine = engine
        self._prices = prices

    def _pause(self, error: LM15Error, attempt: int) -> float | None:
        """Seconds to wait before the next attempt; None when there is none, or no time for it."""
        retry = self._spec.retry
        if attempt + 1 >= retry.attempts or not isinstance(error, _RETRYABLE):
            return None
        if error.retry_after is not None:
            pause = error.retry_after
        else:
            pause = min(retry.wait * 2**attempt, retry.max_wait) * random.uniform(0.5, 1.0)
        deadline = current.get().deadline
        return pause if deadline is None or time.monotonic() + pause < deadline else None

    def _record(self, started: float, attempt: int, request: Any, outcome: Any) -> None:
        failed = isinstance(outcome, BaseException)
        if not failed:
            usage = Usage(outcome.usage.input_tokens or 0, outcome.usage.output_tokens or 0)
            cost, model, status = self._price(outcome, request), outcome.model or self._spec.model, "ok"
            finish = outcome.finish_reason
        else:
            usage, cost, model, finish = Usage(), None, self._spec.model, None
            status = _status(outcome, self._spec.model)
        seconds = time.monotonic() - started
        current.get().requests.append(LMRequest(model, usage, seconds, status, attempt, cost, finish))

    def _price(self, response: Any, request: Any) -> float | None:
        if self._provider == "local":
            return 0.0  # nobody bills it
        if self._provider is None:
            return None
        wanted = self._spec.model.partition("/")[2]
        cost, _why = estimate_cost(
            response,
            provider=self._provider,
            requested_model=wanted,
            request=request,
            namespaces=self._prices,
        )
        return None if cost is None else float(cost)


def _status(error: BaseException, model: str) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    if isinstance(error, Exception):
        kind = faults.kind_of(wrap_error(error, model=model))
        return kind.code if kind else "python_error"
    return type(error).__name__


class Counted(_Recorded):
    """One LM's synchronous engine."""

    def complete(self, request: Any) -> Any:
        """Send the request, again if it failed in a way that may pass, and record it."""
        started, attempt = time.monotonic(), 0
        while True:
            try:
                response = self._engine.complete(request)
            except LM15Error as error:
                pause = self._pause(error, attempt)
                if pause is None:
                    self._record(started, attempt, request, error)
                    raise
                time.sleep(pause)
                attempt += 1
            except BaseException as error:
                self._record(started, attempt, request, error)
                raise
            else:
                self._record(started, attempt, request, response)
                return response

    def close(self) -> None:
        """Close the connections."""
        if hasattr(self._engine, "close"):
            self._engine.close()


class CountedAsync(_Recorded):
    """One LM's asynchronous engine, on the worker's loop."""

    def __init__(
        self, spec: LMSpec, provider: str | None, engine: Any, prices: tuple[str, ...] | None = None
    ) -> None:
        super().__init__(spec, provider, engine, prices)
        self._is_async = inspect.iscoroutinefunction(engine.complete)

    async def complete(self, request: Any) -> Any:
        """Send the request, again if it failed in a way that may pass, and record it."""
        started, attempt = time.monotonic(), 0
        while True:
            try:
                response = await self._once(request)
            except LM15Error as error:
                pause = self._pause(error, attempt)
                if pause is None:
                    self._record(started, attempt, request, error)
                    raise
                await asyncio.sleep(pause)
                attempt += 1
            except BaseException as error:
                self._record(started, attempt, request, error)
                raise
            else:
                self._record(started, attempt, request, response)
                return response

    async def _once(self, request: Any) -> Any:
        if self._spec.timeout is None:
            return await self._ask(request)
        try:
            async with asyncio.timeout(self._spec.timeout):
                return await self._ask(request)
        except TimeoutError as error:
            if isinstance(error, LM15Error):  # the provider's own, a subclass of both
                raise
            raise RequestTimeout(
                f"no answer within the profile's timeout of {self._spec.timeout:g} s"
            ) from error

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
