"""What is reserved and spent of budgets, against a model that adds up everything."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import dspex
from dspex.lm.budget import Account, Amount, Purse, Reservation

PRICES = (0.001, 0.002)
LIMITS = st.one_of(
    st.builds(dspex.Budget, tokens=st.integers(0, 3000)),
    st.builds(dspex.Budget, cost=st.floats(0, 3.0)),
    st.builds(dspex.Budget, tokens=st.integers(0, 3000), cost=st.floats(0, 3.0)),
)


class Machine(RuleBasedStateMachine):
    """Requests of several calls, each paid from its own budget and from one that all share."""

    @initialize(limits=st.lists(LIMITS, min_size=3, max_size=3))
    def begin(self, limits: list[dspex.Budget]) -> None:
        day, *own = limits
        self.refusals: list[dspex.BudgetExceeded] = []
        self.told: list[Amount] = []
        shared = Account("day", "", "2026-01-31", day, on_spent=lambda _, amount: self.told.append(amount))
        accounts = [Account("call", "", "", limit) for limit in own]
        self.purses = [Purse([account, shared], self.refusals.append) for account in accounts]
        self.accounts = [*accounts, shared]
        self.open: list[tuple[int, Reservation]] = []
        self.spent = [(0, 0.0)] * 3
        # The most that one request has reserved beyond what it sends.
        self.answers = Amount()

    def _of(self, call: int) -> tuple[int, int]:
        return (call, 2)

    @rule(
        call=st.integers(0, 1),
        sent=st.integers(1, 500),
        answer=st.integers(0, 500),
        priced=st.sampled_from([True, True, False]),
    )
    def a_request_asks(self, call: int, sent: int, answer: int, priced: bool) -> None:
        before = [(account.spent, account.reserved, account.open) for account in self.accounts]
        refusals = len(self.refusals)
        try:
            held = self.purses[call].reserve(sent, answer, PRICES if priced else None)
        except dspex.BudgetExceeded as error:
            self._refused(error, call, before, refusals)
            return
        self.open.append((call, held))
        self.answers = Amount(
            max(self.answers.tokens, answer), max(self.answers.cost, answer * PRICES[1] if priced else 0.0)
        )

    def _refused(self, error: dspex.BudgetExceeded, call: int, before: list[Any], refusals: int) -> None:
        after = [(account.spent, account.reserved, account.open) for account in self.accounts]
        assert after == before, "a refusal holds nothing"
        assert self.refusals[refusals:] == [error]
        scope = self.accounts[call if error.details["scope"] == "call" else 2]
        assert error.details["limit"] == getattr(scope.limit, error.details["unit"])
        assert not error.retryable

    @rule(data=st.data(), share=st.floats(0, 1))
    def a_request_has_cost_no_more_than_was_held(self, data: Any, share: float) -> None:
        if not self.open:
            return
        call, held = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        spent = Amount(int(held.amount.tokens * share), held.amount.cost * share)
        held.settle(spent)
        held.settle(spent)  # a second time it is nothing
        for number in self._of(call):
            tokens, cost = self.spent[number]
            self.spent[number] = (tokens + spent.tokens, cost + spent.cost)

    @rule(data=st.data())
    def a_request_was_never_sent(self, data: Any) -> None:
        if self.open:
            self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))[1].settle(Amount())

    @invariant()
    def the_sums_are_those_of_the_model(self) -> None:
        for number, account in enumerate(self.accounts):
            tokens, cost = self.spent[number]
            assert account.spent.tokens == tokens
            assert abs(account.spent.cost - cost) < 1e-6
            held = [one.amount for call, one in self.open if number in self._of(call)]
            assert account.open == len(held)
            assert account.reserved.tokens == sum(one.tokens for one in held)
            assert abs(account.reserved.cost - sum(one.cost for one in held)) < 1e-6
        assert sum(one.tokens for one in self.told) == self.spent[2][0]

    @invariant()
    def nothing_goes_over_by_more_than_one_answer(self) -> None:
        for account in self.accounts:
            held = account.spent.plus(account.reserved)
            if account.limit.tokens is not None:
                assert held.tokens <= account.limit.tokens + self.answers.tokens
            if account.limit.cost is not None:
                assert held.cost <= account.limit.cost + self.answers.cost + 1e-6

    @invariant()
    def a_call_is_refused_in_the_queue_when_all_is_spent(self) -> None:
        for number, purse in enumerate(self.purses):
            gone = any(account.gone for account in (self.accounts[number], self.accounts[2]))
            assert (purse.refusal() is not None) == gone


def test_budgets_do_as_their_model_does() -> None:
    """If this failed, reservations would leak and lock a tenant out, or a budget be overspent."""
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=150, stateful_step_count=40, deadline=None)
    )
