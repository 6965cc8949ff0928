"""What was spent of budgets: reserved before each LM request, and settled when it has ended.

A request is let through when what it sends still fits. What it is expected to cost in all is reserved until
it has ended, so requests that are under way together can go over a budget by no more than the answer that
one of them is expected to get.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from dspex.errors import BudgetExceeded
from dspex.types import Budget

#: US dollars for one token sent, and for one generated.
Prices = tuple[float, float]


class Amount(NamedTuple):
    """Tokens and US dollars."""

    tokens: int = 0
    cost: float = 0.0

    def plus(self, other: Amount) -> Amount:
        """Both together."""
        return Amount(self.tokens + other.tokens, self.cost + other.cost)

    def minus(self, other: Amount) -> Amount:
        """This without the other; never less than nothing."""
        return Amount(max(0, self.tokens - other.tokens), max(0.0, self.cost - other.cost))


_NOTHING = Amount()


@dataclass(eq=False, slots=True, weakref_slot=True)
class Account:
    """What was spent of one budget.

    Attributes:
        scope: ``call``, ``session``, ``tenant`` or ``day``.
        name: Whose it is: the tenant, or the session's id; empty for none.
        day: The UTC day that it holds for, as ``2026-01-31``; empty when it is for no day.
        limit: How much may be spent.
        spent: What was.
        reserved: What requests that are under way are expected to cost.
        open: How many they are.
        on_spent: Told of the account and of each amount that was spent.
    """

    scope: str
    name: str
    day: str
    limit: Budget
    spent: Amount = _NOTHING
    reserved: Amount = _NOTHING
    open: int = 0
    on_spent: Callable[[Account, Amount], None] | None = None

    @property
    def gone(self) -> str | None:
        """The unit of which nothing is left, requests under way not counted: ``tokens`` or ``cost``."""
        if self.limit.tokens is not None and self.spent.tokens >= self.limit.tokens:
            return "tokens"
        if self.limit.cost is not None and self.spent.cost >= self.limit.cost:
            return "cost"
        return None

    def lacks(self, sent: Amount) -> str | None:
        """The unit in which there is no room for what a request sends."""
        held = self.spent.plus(self.reserved)
        for unit in ("tokens", "cost"):
            limit, taken, more = getattr(self.limit, unit), getattr(held, unit), getattr(sent, unit)
            if limit is not None and (taken >= limit or taken + more > limit):
                return unit
        return None

    def reserve(self, amount: Amount) -> None:
        """Hold an amount for a request."""
        self.open += 1
        self.reserved = self.reserved.plus(amount)

    def settle(self, reserved: Amount, spent: Amount) -> None:
        """Let go of what was held for a request, and take note of what it has cost."""
        self.open -= 1
        # Dollars are fractions: what is left over of them is no reservation.
        self.reserved = self.reserved.minus(reserved) if self.open else Amount()
        if any(spent):
            self.spent = self.spent.plus(spent)
            if self.on_spent is not None:
                self.on_spent(self, spent)

    def refused(self, unit: str, why: str = "", *, sends: float = 0) -> BudgetExceeded:
        """The error of what would go over it.

        Args:
            unit: In which unit: ``tokens`` or ``cost``.
            why: The reason; empty where it is only that too little is left.
            sends: What the request that is refused sends of it.
        """
        limit, spent = getattr(self.limit, unit), getattr(self.spent, unit)
        reserved = getattr(self.reserved, unit)
        whose = {
            "call": "of this call",
            "session": f"of the session {self.name!r}",
            "tenant": f"of the tenant {self.name!r}" if self.name else "of calls without a tenant",
            "day": "of all calls together",
        }[self.scope]
        day = f" for {self.day} (UTC)" if self.day else ""
        held = f", and requests under way may take {_shown(unit, reserved)}" if any(self.reserved) else ""
        more = f", and this request sends about {_shown(unit, sends)}" if sends else ""
        why = why or f"{_shown(unit, spent)} of {_shown(unit, limit)} are spent{held}{more}"
        later = "; it begins anew at midnight UTC" if self.day else ""
        return BudgetExceeded(
            f"the budget {whose}{day} does not allow this LM request: {why}{later}. Raise the budget, or "
            "have the call send less",
            details={
                "scope": self.scope,
                "name": self.name,
                "day": self.day or None,
                "unit": unit,
                "limit": limit,
                "spent": spent,
                "reserved": reserved,
            },
        )


def _shown(unit: str, amount: float) -> str:
    return f"{amount:,} tokens" if unit == "tokens" else f"{amount:.6g} US dollars"


@dataclass(eq=False, slots=True)
class Reservation:
    """What is held for one request, until ``settle``.

    Attributes:
        amount: What is held.
        prices: The prices of the model that is asked; None when nobody knows them.
    """

    amount: Amount
    prices: Prices | None
    _purse: Purse = field(repr=False)
    _settled: bool = False

    def settle(self, spent: Amount) -> None:
        """Let go of it, once; ``spent`` is what the request has cost."""
        if not self._settled:
            self._settled = True
            for account in self._purse.accounts:
                account.settle(self.amount, spent)

    def charged(self, tokens: int, cost: float | None) -> Amount:
        """What an answer has cost: where its provider did not count, what was held for it.

        Args:
            tokens: Tokens that the provider counted; 0 when it did not.
            cost: US dollars; None when nobody knows.
        """
        return Amount(tokens or self.amount.tokens, self.amount.cost if cost is None else cost)


class Purse:
    """The budgets that the LM requests of one call are paid from.

    Args:
        accounts: The budgets, the narrowest first.
        on_refused: Told of each request that is refused.

    Attributes:
        accounts: As given.
    """

    __slots__ = ("_on_refused", "accounts")

    def __init__(
        self, accounts: Iterable[Account], on_refused: Callable[[BudgetExceeded], None] | None = None
    ) -> None:
        self.accounts = tuple(accounts)
        self._on_refused = on_refused

    def refusal(self) -> BudgetExceeded | None:
        """The error of a call that must not begin, because nothing is left; None when it may."""
        for account in self.accounts:
            unit = account.gone
            if unit is not None:
                return self._told(account.refused(unit))
        return None

    def reserve(self, sent: int, answer: int, prices: Prices | None) -> Reservation:
        """Hold what a request is expected to cost.

        Args:
            sent: Tokens that it sends.
            answer: Tokens that its answer is expected to have.
            prices: Those of its model; None when nobody knows them.

        Raises:
            BudgetExceeded: There is no room for what it sends; nothing is held.
        """
        per_sent, per_answer = prices or (0.0, 0.0)
        certain = Amount(sent, sent * per_sent)
        for account in self.accounts:
            if prices is None and account.limit.tokens is None and account.limit.cost is not None:
                # Nobody could say when such a budget is spent.
                why = "the model's price is not known, and it is in money alone; give it tokens as well"
                raise self._told(account.refused("cost", why))
            unit = account.lacks(certain)
            if unit is not None:
                raise self._told(account.refused(unit, sends=getattr(certain, unit)))
        amount = certain.plus(Amount(answer, answer * per_answer))
        for account in self.accounts:
            account.reserve(amount)
        return Reservation(amount, prices, self)

    def _told(self, error: BudgetExceeded) -> BudgetExceeded:
        if self._on_refused is not None:
            self._on_refused(error)
        return error
