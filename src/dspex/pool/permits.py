"""The permits that one worker holds, so that they come back when it dies."""

from __future__ import annotations

from collections.abc import Callable

from dspex.lm.gate import FREE, Ask, Gate, Gates
from dspex.lm.limits import Permit
from dspex.pool.work import Work
from dspex.wire.messages import LmAsk, LmDone, LmGo

# Ends of a request for which no provider charges tokens.
_UNCHARGED = frozenset(
    {
        *("lm_auth", "lm_billing", "lm_context_window", "lm_invalid_request"),
        *("lm_not_configured", "lm_rate_limited", "lm_unsupported"),
    }
)
_SEAT = -1


class WorkerPermits:
    """What one worker was allowed to ask of LMs.

    Args:
        gates: The runtime's gates.
        go: Tells the worker that a request may be sent.
    """

    def __init__(self, gates: Gates, go: Callable[[LmGo], None]) -> None:
        self._gates = gates
        self._go = go
        self._seats: dict[int, tuple[Gate, Permit]] = {}  # by the call's number
        self._waiting: dict[int, tuple[Gate, Ask]] = {}  # by the worker's number of the request
        self._granted: dict[int, tuple[Gate, Permit]] = {}  # the same

    def give_seat(self, call: int, gate: Gate, permit: Permit) -> int:
        """A call begins with this permit; gives what the worker is told of it."""
        self._seats[call] = (gate, permit)
        return 0 if permit is FREE else gate.number

    def end_call(self, call: int) -> None:
        """A call has ended: what it has not used goes back."""
        seat = self._seats.pop(call, None)
        if seat is not None:
            seat[0].release(seat[1])

    def asked(self, message: LmAsk) -> None:
        """The worker wants to send a request."""
        gate = self._gates.find(message.gate)
        if gate is None:
            self._go(LmGo(message.ask))
            return
        number = message.ask

        def grant(permit: Permit) -> None:
            self._waiting.pop(number, None)
            self._granted[number] = (gate, permit)
            self._go(LmGo(number))

        ask = gate.ask(message.tokens, grant)
        if number not in self._granted:
            self._waiting[number] = (gate, ask)

    def done(self, message: LmDone, work: Work | None) -> None:
        """An attempt has ended, or was given up before it was sent."""
        if work is not None and message.record is not None:
            work.requests.append(message.record)
        waiting = self._waiting.pop(message.ask, None)
        if waiting is not None:
            waiting[0].withdraw(waiting[1])
            return
        held = self._granted.pop(message.ask, None)
        if message.ask == _SEAT:
            held = self._seats.pop(message.call, None)
        if held is None:
            gate = self._gates.find(message.gate)
            if gate is not None and message.status == "lm_rate_limited" and message.sent is not None:
                gate.refused(message.sent, message.retry_after)
            return
        held[0].settle(
            held[1],
            sent=message.sent,
            usage=_usage(message),
            refused=message.status == "lm_rate_limited",
            retry_after=message.retry_after,
            answered=message.status == "ok",
        )

    def lose(self, now: float) -> None:
        """The worker is dead: its permits go back, charged at their estimates.

        Args:
            now: The monotonic second.
        """
        asks, permits = list(self._waiting.values()), [*self._granted.values(), *self._seats.values()]
        self._waiting, self._granted, self._seats = {}, {}, {}
        # All asks before anything comes back: nothing may be granted to the dead.
        for gate in {gate for gate, _ in asks}:
            gate.withdraw(*(ask for its, ask in asks if its is gate))
        for gate, permit in permits:
            if permit is FREE:
                gate.release(permit)
            else:
                gate.settle(permit, sent=now)


def _usage(message: LmDone) -> tuple[int, int] | None:
    if message.record is not None and message.status == "ok":
        usage = message.record.usage
        # A provider that does not count has not answered for nothing.
        return (usage.prompt_tokens, usage.completion_tokens) if usage.total_tokens else None
    return (0, 0) if message.status in _UNCHARGED else None
