"""The gate that every LM request of a profile passes, wherever it is made.

A call that may not make its first request yet waits in the queue of its pool, without a slot: it gets a
permit together with its slot. Further requests of a running call ask, and go before calls that have not
begun. When the provider says that it is asked too much (429), the gate waits as long as it says and lets
fewer requests be under way at once, until it answers again; that holds for profiles without limits, too.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Callable

from dspex.errors import LMCircuitOpen
from dspex.lm.breaker import Circuit
from dspex.lm.limits import Ask, Minute, Permit, Usual
from dspex.lm.profile import LM
from dspex.types import Limits

# How much the number of requests under way may grow with each answer after a 429, until it is as before.
_GROWTH = 0.2
# Seconds of silence after the first 429 that does not say how long, and the most that they double to.
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 30.0
# Seconds for which a provider that was busy, and is asked nothing more, is remembered to have been.
_REMEMBERED = 60.0
#: What a call gets whose profile does not have to ask; it counts for nothing.
FREE = Permit(0)


class Gate:
    """One profile's gate, on the runtime's loop.

    Args:
        number: Its number in the runtime.
        lm: The profile.
        tenant: Whose it is; empty for all, or for calls without a tenant.
        on_room: Called when a call that waits might begin.
        on_watch: Called with whether requests have to ask, when that changes for a profile without limits.
        circuit: The breaker of its endpoint; None without one.
    """

    def __init__(
        self,
        number: int,
        lm: LM,
        tenant: str,
        on_room: Callable[[], None],
        on_watch: Callable[[Gate, bool], None],
        circuit: Circuit | None = None,
    ) -> None:
        self.circuit = circuit
        self.number = number
        self.model = lm.model
        self.tenant = tenant
        self.limits = lm.limits or Limits()
        self.limited = bool(self.limits.numbers)
        self._max_tokens = lm.max_tokens
        self._on_room = on_room
        self._on_watch = on_watch
        self._minute = Minute(self.limits)
        self._asks: deque[Ask] = deque()
        self._in_flight = 0
        self._unwatched = 0  # calls that run without a permit
        self._most = math.inf if self.limits.in_flight is None else float(self.limits.in_flight)
        self._window = math.inf  # requests under way that a busy provider is trusted with
        self._peak = 0
        self._cut = 0.0
        self._refusals = 0
        self._paused_until = 0.0
        self._usual = Usual()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def watched(self) -> bool:
        """Whether requests have to ask: there are limits, or the provider is busy or left alone."""
        return self.limited or self.slowed or not (self.circuit is None or self.circuit.is_closed)

    def refusal(self) -> LMCircuitOpen | None:
        """The error of a request that must not be sent, because its endpoint is left alone."""
        return None if self.circuit is None else self.circuit.refusal()

    @property
    def idle(self) -> bool:
        """Whether forgetting it forgets nothing."""
        if self._in_flight or self._unwatched or self._asks:
            return False
        if self.circuit is not None and not self.circuit.is_closed:
            return False
        if self.slowed and time.monotonic() < self._paused_until + _REMEMBERED:
            return False
        by_minute = self.limits.requests_per_minute or self.limits.tokens_per_minute
        return not (by_minute and any(self.last_minute()))

    @property
    def in_flight(self) -> int:
        """Requests under way that have a permit."""
        return self._in_flight

    @property
    def waiting(self) -> int:
        """Requests of running calls that wait for one."""
        return len(self._asks)

    @property
    def shut(self) -> bool:
        """Whether a call that waits could not begin now."""
        if self._in_flight >= min(self._most, self._window) or self.refusal() is not None:
            return True
        now = time.monotonic()
        return now < self._paused_until or self._minute.wait(now, 0) > 0

    @property
    def opens_in(self) -> float | None:
        """Seconds until a call could begin by the clock alone; None when one under way has to end first."""
        now = time.monotonic()
        wait = max(self._paused_until - now, self._minute.wait(now, 0))
        return round(wait, 3) if 0 < wait < math.inf else None

    @property
    def reason(self) -> str:
        """Why it is shut, for people."""
        if self.slowed:
            return "its provider is busy"
        return ", ".join(f"{name}={limit}" for name, limit in self.limits.numbers.items())

    @property
    def slowed(self) -> bool:
        """Whether the provider was asked too much, and has not recovered yet."""
        return self._window < math.inf

    def last_minute(self) -> tuple[int, int]:
        """Requests and tokens of the last 60 seconds."""
        return self._minute.counted(time.monotonic())

    # Permits

    def seat(self, size: int) -> Permit | None:
        """A permit for the first request of a call that is about to begin, if there is one now.

        Args:
            size: Bytes of the call's arguments, to estimate its tokens from.
        """
        if not self.watched:
            self._unwatched += 1
            return FREE
        tokens = self._with_answer(max(size // 4, int(self._usual.prompt)))
        if self._asks or self.refusal() is not None or self._wait(tokens) > 0:
            return None
        return self._take(tokens)

    def keeps_waiting(self) -> bool:
        """Whether a call could not begin now; if so, ``on_room`` is called when it might."""
        return self.watched and (bool(self._asks) or self.refusal() is not None or self._wait(0) > 0)

    def release(self, permit: Permit) -> None:
        """Take back what ``seat`` gave and no request has used."""
        if permit is FREE:
            self._unwatched -= 1
        else:
            self.settle(permit, sent=None)

    def ask(
        self,
        tokens: int,
        grant: Callable[[Permit], None],
        refuse: Callable[[LMCircuitOpen], None] = lambda _: None,
    ) -> Ask:
        """Have ``grant`` called with a permit, at once or when there is one.

        Args:
            tokens: Estimated tokens of what is sent.
            grant: Called with the permit.
            refuse: Called instead when the endpoint is left alone.
        """
        ask = Ask(self._with_answer(tokens), grant, refuse)
        self._asks.append(ask)
        self.serve()
        return ask

    def refuse_waiting(self) -> None:
        """The endpoint is left alone: tell those that wait to ask it."""
        while self._asks and (refusal := self.refusal()) is not None:
            self._asks.popleft().refuse(refusal)

    def withdraw(self, *asks: Ask) -> None:
        """Forget asks that still wait; none of them is granted in between."""
        for ask in asks:
            if ask in self._asks:
                self._asks.remove(ask)
        self.serve()

    def settle(
        self,
        permit: Permit,
        *,
        sent: float | None,
        usage: tuple[int, int] | None = None,
        refused: bool = False,
        retry_after: float | None = None,
        answered: bool = False,
        status: str = "cancelled",
    ) -> None:
        """Take a permit back.

        Args:
            permit: The permit.
            sent: Monotonic second at which its request was sent; None if it never was.
            usage: Tokens sent and generated as the provider counted; None leaves the estimate.
            refused: Whether the provider said that it is asked too much.
            retry_after: Seconds that it wants to be left alone.
            answered: Whether it has answered.
            status: ``"ok"``, or the code of the error that the request ended with.
        """
        now = time.monotonic()
        self._in_flight -= 1
        if self.circuit is not None:
            self.circuit.ended(status, probe=permit.probe)
        self._minute.settle(permit, sent, now, None if usage is None else sum(usage))
        if usage is not None and answered:
            self._usual.learn(*usage)
        if refused:
            self.refused(sent or now, retry_after)
        elif answered:
            self._recover()
        self.serve()

    def refused(self, sent: float, retry_after: float | None) -> None:
        """The provider has answered 429: wait as long as it says, and ask less at once.

        Args:
            sent: Monotonic second at which that request was sent.
            retry_after: Seconds that the provider wants to be left alone; None if it did not say.
        """
        now = time.monotonic()
        if retry_after is not None:
            self._paused_until = max(self._paused_until, now + retry_after)
        # One cut for all requests that were under way together: they tell of the same crowd.
        if sent < self._cut:
            return
        if retry_after is None:
            pause = min(_FIRST_PAUSE * 2**self._refusals, _LONGEST_PAUSE)
            self._paused_until = max(self._paused_until, now + pause * random.uniform(0.5, 1.0))
        was_watched = self.watched
        busy = self._in_flight + self._unwatched + 1
        self._peak = max(self._peak, busy)
        self._window = max(1.0, min(self._window, busy) / 2)
        self._cut = now
        self._refusals = min(self._refusals + 1, 16)
        if not was_watched:
            self._on_watch(self, True)

    def _recover(self) -> None:
        self._refusals = 0
        if self._window == math.inf:
            return
        self._window += _GROWTH
        if self._window > min(self._most, 2.0 * self._peak):
            self._window, self._peak = math.inf, 0
            if not self.watched:
                self._on_watch(self, False)

    def answer_of(self, most: int | None = None) -> int:
        """Tokens that an answer is expected to have; ``most`` is what the request itself allows."""
        return most or self._max_tokens or self._usual.expected

    def _with_answer(self, tokens: int) -> int:
        return tokens + self.answer_of()

    def _wait(self, tokens: int) -> float:
        """Seconds until a request may be sent; infinity if another one has to end first."""
        if self._in_flight >= min(self._most, self._window):
            return math.inf
        now = time.monotonic()
        wait = max(self._paused_until - now, self._minute.wait(now, tokens))
        if 0 < wait < math.inf:
            self._arm(wait)
        return wait

    def _take(self, tokens: int) -> Permit:
        self._in_flight += 1
        permit = self._minute.take(tokens)
        permit.probe = self.circuit is not None and self.circuit.let_through()
        return permit

    def serve(self) -> None:
        """Give permits to those that ask, in order; when none does, calls may begin."""
        self.refuse_waiting()
        while self._asks and self._wait(self._asks[0].tokens) <= 0:
            ask = self._asks.popleft()
            ask.grant(self._take(ask.tokens))
            self.refuse_waiting()
        if not self._asks:
            self._on_room()

    def _arm(self, wait: float) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + wait:
                return
            self._timer.cancel()
        # A millisecond more, as loops may fire their timers a little early.
        self._timer = loop.call_later(max(0.0, wait) + 0.001, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self.serve()
