"""The permits that one worker holds, so that they come back when it dies."""

from __future__ import annotations

from collections.abc import Callable

from dspex.errors import BudgetExceeded, DspexError
from dspex.lm.budget import Amount, Reservation
from dspex.lm.gate import FREE, Gate
from dspex.lm.gates import Gates
from dspex.lm.limits import Ask, Permit
from dspex.pool.work import Work
from dspex.wire.messages import LmAsk, LmDone, LmGo

# Ends of a request for which no provider charges tokens.
_UNCHARGED = frozenset(
    {
        *("lm_auth", "lm_billing", "lm_context_window", "lm_invalid_request"),
        *("lm_not_configured", "lm_rate_limited", "lm_unsupported"),
    }
)
# Those, and that of a provider that was not there.
_FOR_NOTHING = _UNCHARGED | {"lm_unavailable"}
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
        self._reserved: dict[int, Reservation] = {}  # the same

    def give_seat(self, call: int, gate: Gate, permit: Permit, *, asks: bool = False) -> int:
        """A call begins with this permit; gives what the worker is told of it.

        Args:
            call: Its number.
            gate: The gate of its LM.
            permit: The permit.
            asks: Whether each of its requests asks; the first one then gets this permit.
        """
        self._seats[call] = (gate, permit)
        return 0 if permit is FREE or asks else gate.number

    def end_call(self, call: int) -> None:
        """A call has ended: what it has not used goes back."""
        seat = self._seats.pop(call, None)
        if seat is not None:
            seat[0].release(seat[1])

    def asked(self, message: LmAsk, work: Work | None = None) -> None:
        """The worker wants to send a request, of a call that it runs."""
        gate = self._gates.find(message.gate)
        number = message.ask
        if work is not None and work.purse is not None:
            answer = message.most or 0 if gate is None else gate.answer_of(message.most)
            try:
                self._reserved[number] = work.purse.reserve(message.tokens, answer, message.prices)
            except BudgetExceeded as error:
                self._go(LmGo(number, error.to_wire()))
                return
        if gate is None:
            self._go(LmGo(number))
            return
        answered = False

        def grant(permit: Permit) -> None:
            nonlocal answered
            answered = True
            self._waiting.pop(number, None)
            self._granted[number] = (gate, permit)
            self._go(LmGo(number))

        def refuse(error: DspexError) -> None:
            nonlocal answered
            answered = True
            self._waiting.pop(number, None)
            self._settle(number, Amount())
            self._go(LmGo(number, error.to_wire()))

        seat = self._seats.get(message.call)
        # With a budget its first request asks, too, and has its permit. Without one, that is in use already.
        asks_first = work is not None and work.purse is not None
        if asks_first and seat is not None and seat[0] is gate and seat[1] is not FREE:
            del self._seats[message.call]
            grant(seat[1])
            return
        ask = gate.ask(message.tokens, grant, refuse)
        if not answered:
            self._waiting[number] = (gate, ask)

    def _settle(self, number: int, spent: Amount | None) -> None:
        """Settle what was reserved for a request; None is what was reserved."""
        reservation = self._reserved.pop(number, None)
        if reservation is not None:
            reservation.settle(reservation.amount if spent is None else spent)

    def done(self, message: LmDone, work: Work | None) -> None:
        """An attempt has ended, or was given up before it was sent."""
        if work is not None and message.record is not None:
            work.requests.append(message.record)
        reservation = self._reserved.get(message.ask)
        if reservation is not None:
            self._settle(message.ask, _cost(message, reservation))
        waiting = self._waiting.pop(message.ask, None)
        if waiting is not None:
            waiting[0].withdraw(waiting[1])
            return
        held = self._granted.pop(message.ask, None)
        if message.ask == _SEAT:
            held = self._seats.pop(message.call, None)
        if held is None:
            gate = self._gates.find(message.gate)
            if gate is None or message.sent is None:
                return
            if gate.circuit is not None:
                gate.circuit.ended(message.status)
            if message.status == "lm_rate_limited":
                gate.refused(message.sent, message.retry_after)
            return
        held[0].settle(
            held[1],
            sent=message.sent,
            usage=_usage(message),
            refused=message.status == "lm_rate_limited",
            retry_after=message.retry_after,
            answered=message.status == "ok",
            status=message.status if message.sent is not None else "cancelled",
        )

    def lose(self, now: float) -> None:
        """The worker is dead: its permits go back, charged at their estimates.

        Args:
            now: The monotonic second.
        """
        asks, permits = list(self._waiting.values()), [*self._granted.values(), *self._seats.values()]
        granted = self._granted
        self._waiting, self._granted, self._seats = {}, {}, {}
        # All asks before anything comes back: nothing may be granted to the dead.
        for gate in {gate for gate, _ in asks}:
            gate.withdraw(*(ask for its, ask in asks if its is gate))
        for number in [number for number in self._reserved if number not in granted]:
            self._settle(number, Amount())
        for number in list(self._reserved):
            self._settle(number, None)
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


def _cost(message: LmDone, reservation: Reservation) -> Amount:
    """What an attempt has cost; of one that was sent and whose end nobody heard of, what was expected."""
    if message.sent is None or message.status in _FOR_NOTHING:
        return Amount()
    if message.status == "ok" and message.record is not None:
        return reservation.charged(message.record.usage.total_tokens, message.record.cost)
    return reservation.amount
