"""The worker's side of the gate: asks before an LM request where it has to, and tells of each one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from dspex.errors import DspexError
from dspex.types import LMRequest, LMSpec
from dspex.wire.messages import LmAsk, LmDone, Message
from dspex.worker.engine import CallScope, Rates

_FREE, _SEAT = 0, -1
# Ends of an attempt that gate and breaker have to know of, whether or not it had to ask.
_TOLD = frozenset({"lm_rate_limited", "lm_timeout", "lm_unavailable"})
# Tokens of a part of a request that is no text: a picture, a sound.
_TOKENS_OF_MEDIA = 1000


class _Ticket:
    """A request that another loop waits for.

    Attributes:
        ask: What it was given, once it may go.
        returned: Whether nobody waits for it any more.
    """

    __slots__ = ("ask", "returned")

    def __init__(self) -> None:
        self.ask: int | None = None
        self.returned = False


class WorkerDoor:
    """The way of a worker's LM requests, on its loop.

    Args:
        send: Sends a message to the supervisor; on the loop only.
    """

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._asked: dict[int, asyncio.Future[None]] = {}
        self._watched: set[int] = set()
        self._next = 1

    async def enter(self, scope: CallScope, spec: LMSpec, request: Any, rates: Rates) -> int:
        """Wait until a request may be sent; gives what ``leave`` is told. On any loop.

        Raises:
            BudgetExceeded: It would go over a budget.
            LMCircuitOpen: Its endpoint is left alone.
        """
        if threading.get_ident() == self._thread:
            return await self._enter(scope, spec, request, rates)
        if self._is_free(scope, spec):
            return _FREE
        # The loop of a program that has the main thread.
        ticket = _Ticket()
        going = asyncio.run_coroutine_threadsafe(
            self._enter_with(ticket, scope, spec, request, rates), self._loop
        )
        try:
            return await asyncio.shield(asyncio.wrap_future(going))
        except asyncio.CancelledError:
            self._loop.call_soon_threadsafe(self._turn_back, ticket, scope, spec, going)
            raise

    async def _enter_with(
        self, ticket: _Ticket, scope: CallScope, spec: LMSpec, request: Any, rates: Rates
    ) -> int:
        ask = await self._enter(scope, spec, request, rates)
        if ticket.returned:
            self._give_back(scope, spec, ask)
        ticket.ask = ask
        return ask

    def _turn_back(self, ticket: _Ticket, scope: CallScope, spec: LMSpec, going: Future[int]) -> None:
        """Whoever waited on the other loop has gone; on this loop, where what it was given is known."""
        ticket.returned = True
        if ticket.ask is None:
            going.cancel()
        else:
            self._give_back(scope, spec, ticket.ask)

    def _give_back(self, scope: CallScope, spec: LMSpec, ask: int) -> None:
        if ask != _FREE:
            self._send(LmDone(scope.call, ask, spec.gate, None, "cancelled"))

    async def _enter(self, scope: CallScope, spec: LMSpec, request: Any, rates: Rates) -> int:
        if self._takes_seat(scope, spec):
            return _SEAT
        if not scope.asks and not spec.limited and spec.gate not in self._watched:
            return _FREE
        ask = self._next
        self._next += 1
        going = self._asked[ask] = self._loop.create_future()
        prices = rates() if scope.asks else None
        most = request.config.max_tokens
        self._send(LmAsk(scope.call, ask, spec.gate, _tokens(request), most, prices))
        try:
            await going
        except asyncio.CancelledError:
            # It may be on its way, so it is given back in any case.
            self._send(LmDone(scope.call, ask, spec.gate, None, "cancelled"))
            raise
        finally:
            self._asked.pop(ask, None)
        return ask

    def enter_from_thread(self, scope: CallScope, spec: LMSpec, request: Any, rates: Rates) -> int:
        """``enter`` for a thread that is not the loop's.

        Raises:
            BudgetExceeded: It would go over a budget.
            LMCircuitOpen: Its endpoint is left alone.
            RuntimeError: Called on the loop, which would wait for itself.
        """
        on_loop = threading.get_ident() == self._thread
        if on_loop and self._takes_seat(scope, spec):
            return _SEAT
        if self._is_free(scope, spec):
            return _FREE
        if on_loop:
            raise RuntimeError(
                "an LM with limits, a budget or a breaker that is open was called synchronously on the "
                "event loop; await the program's acall()"
            )
        going = self._enter(scope, spec, request, rates)
        return asyncio.run_coroutine_threadsafe(going, self._loop).result()

    def _is_free(self, scope: CallScope, spec: LMSpec) -> bool:
        """Whether a request need not ask. Seats are taken on the loop: two threads never take one."""
        free = not scope.seat and not scope.asks
        return free and not spec.limited and spec.gate not in self._watched

    @staticmethod
    def _takes_seat(scope: CallScope, spec: LMSpec) -> bool:
        has_seat = scope.seat != 0 and scope.seat == spec.gate
        if has_seat:
            scope.seat = 0
        return has_seat

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
        if ask == _FREE and record is None and status not in _TOLD:
            return  # nobody waits for it, and it will be told with the last attempt
        done = LmDone(scope.call, ask, spec.gate, sent, status, retry_after, record)
        if threading.get_ident() == self._thread:
            self._send(done)
        else:
            self._loop.call_soon_threadsafe(self._send, done)

    def go(self, ask: int, refused: DspexError | None) -> None:
        """The supervisor lets a request go, or refuses it."""
        going = self._asked.get(ask)
        if going is None or going.done():
            return
        if refused is None:
            going.set_result(None)
        else:
            going.set_exception(refused)

    def watch(self, gate: int, *, on: bool) -> None:
        """Requests of a profile without limits have to ask from now on, or no more."""
        if on:
            self._watched.add(gate)
        else:
            self._watched.discard(gate)


def _tokens(request: Any) -> int:
    """About how many tokens a request sends: a quarter of its bytes."""
    system = request.system or ()
    size = len(system.encode(errors="replace")) if isinstance(system, str) else 0
    media = 0
    prompts = () if isinstance(system, str) else system
    for parts in (prompts, *(message.parts for message in request.messages)):
        for part in parts:
            text = getattr(part, "text", None)
            if isinstance(text, str):
                size += len(text.encode(errors="replace"))
            else:
                media += 1
    return size // 4 + media * _TOKENS_OF_MEDIA
