"""What a runtime remembers of budgets while calls come and go."""

from __future__ import annotations

import pytest

import dspex
from dspex.lm.budget import Amount, Purse
from dspex.runtime import budgets as budgets_
from dspex.runtime.question import PaidSession, Question
from dspex.testing import InProcessRuntime

pytestmark = pytest.mark.anyio


async def test_turns_of_a_session_at_once_forget_nothing_that_was_spent() -> None:
    """If this failed, a turn that was opened before another had ended would give back what that one spent."""
    async with InProcessRuntime(settings=dspex.Settings(file=False)) as runtime:
        budgets, limit = runtime.core.budgets, dspex.Budget(tokens=1000)
        before = Question(session=PaidSession("talk", 1, 5.0, limit, (0, 0.0)))
        purse = await budgets.purse(before)
        assert purse is not None
        purse.reserve(10, 0, None).settle(Amount(900))
        await budgets.written()
        late = await budgets.purse(before)
        assert late is not None
        assert late.accounts[0].spent.tokens == 900
        with pytest.raises(dspex.BudgetExceeded):
            late.reserve(200, 0, None)


async def test_a_budget_that_a_call_still_has_is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If this failed, what a call spends would be lost where ten thousand others were made meanwhile."""
    monkeypatch.setattr(budgets_, "_KEPT", 10)
    async with InProcessRuntime(settings=dspex.Settings(file=False)) as runtime:
        budgets, limit = runtime.core.budgets, dspex.Budget(tokens=1000)

        async def of(number: int) -> Purse:
            session = PaidSession(f"s{number}", number, 5.0, limit, (0, 0.0))
            purse = await budgets.purse(Question(session=session))
            assert purse is not None
            return purse

        held = await of(1)
        for number in range(2, 100):
            await of(number)
        held.reserve(10, 0, None).settle(Amount(900))
        assert (await of(1)).accounts[0].spent.tokens == 900
        assert len(runtime.stats().budgets) < 20
