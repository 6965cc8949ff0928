"""Budgets of calls, sessions, tenants and days, as a counting provider sees them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest

import dspex
from dspex.testing import InProcessRuntime
from tests.processes import until
from tests.provider import Provider, Reply, delayed, echo, fault, fields, hanging, text

pytestmark = pytest.mark.anyio
T = TypeVar("T")
ONE = {"general": dspex.PoolOptions(workers=1)}
TWO = {"general": dspex.PoolOptions(workers=2)}
MODEL = "openai/gpt-4o-mini"  # DSPy knows its price
# What the provider counts for a short question: the tokens of a prompt, and those of an answer.
CALL = 106


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


@pytest.fixture(autouse=True)
def answers(provider: Provider) -> None:
    provider.reply = lambda _: echo()


def model(provider: Provider, name: str = MODEL, **options: Any) -> dspex.LM:
    known = {"api_key": "k", "retry": dspex.Retry(attempts=1), "base_url": provider.base_url}
    return dspex.LM(name, **{**known, **options})


def settings(**options: Any) -> dspex.Settings:
    return dspex.Settings(file=False, **options)


@pytest.fixture(scope="module")
def runtime(provider: Provider) -> Iterator[dspex.Runtime]:
    """Tenants with budgets, each its own test's; nothing else is limited."""
    tenants = {
        "few": dspex.Budget(tokens=600),
        "many": dspex.Budget(tokens=6000),
        "poor": dspex.Budget(cost=0.0001),
        "streams": dspex.Budget(tokens=300),
        "batches": dspex.Budget(tokens=600),
        "refused": dspex.Budget(tokens=10_000),
    }
    limits = settings(tenant_budgets=tenants, allow_modules=["tests.programs"])
    with dspex.Runtime(model(provider), pools=TWO, settings=limits) as opened:
        yield opened


def spent(runtime: dspex.Runtime, scope: str, name: str = "") -> dspex.BudgetStats:
    [found] = [one for one in runtime.stats().budgets if (one.scope, one.name) == (scope, name)]
    return found


async def until_refused(
    ask: Callable[[], Awaitable[T]], most: int = 20
) -> tuple[list[T], dspex.BudgetExceeded]:
    """Call again and again: what came before the first refusal, and that."""
    came: list[T] = []
    for _ in range(most):
        try:
            came.append(await ask())
        except dspex.BudgetExceeded as error:
            return came, error
    raise AssertionError(f"nothing was refused in {most} calls")


# A call's own


async def test_a_call_is_refused_before_its_request_is_sent(
    runtime: dspex.Runtime, provider: Provider
) -> None:
    """If this failed, a budget would be noticed when the money is gone."""
    before = len(provider.requests)
    refusals: list[dspex.BudgetRefused] = []
    stop = runtime.on(dspex.BudgetRefused, refusals.append)
    for budget, unit in ((dspex.Budget(tokens=20), "tokens"), (dspex.Budget(cost=1e-6), "cost")):
        with pytest.raises(dspex.BudgetExceeded) as caught:
            await runtime.adapter().agenerate("q", budget=budget)
        details = caught.value.details
        assert (details["scope"], details["unit"], details["spent"]) == ("call", unit, 0)
        assert details["limit"] == getattr(budget, unit)
        assert "of this call" in caught.value.message
        assert not caught.value.retryable
    assert len(provider.requests) == before
    until(lambda: len(refusals) >= 2)
    stop()


async def test_later_requests_of_a_call_count_too(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, an agent that goes round and round would only be stopped by its deadline."""
    before = len(provider.requests)
    calls = [delayed(0.0, _react_step()) for _ in range(50)]
    provider.reply = lambda request: calls[min(request.number, 49)]
    with pytest.raises(dspex.BudgetExceeded) as caught:
        await runtime.adapter().agenerate(
            "q",
            module="dspy.ReAct",
            signature="question -> answer",
            tools=[_look],
            options={"max_iters": 40},
            budget=dspex.Budget(tokens=3000),
        )
    asked = len(provider.requests) - before
    assert 2 <= asked < 30
    assert 0 < caught.value.details["spent"] <= 3000
    assert len(caught.value.details["requests"]) == asked


def _look(place: str) -> str:
    """Look somewhere."""
    return f"nothing at {place}"


def _react_step() -> Reply:
    return text(
        "[[ ## next_thought ## ]]\nlook\n\n[[ ## next_tool_name ## ]]\n_look\n\n"
        '[[ ## next_tool_args ## ]]\n{"place": "here"}\n\n[[ ## completed ## ]]'
    )


async def test_the_stages_of_a_program_share_the_budget_of_their_call(provider: Provider) -> None:
    """If this failed, a program of ten stages would spend its budget ten times."""
    budgets = {"call": dspex.Budget(tokens=int(CALL * 2.5))}
    async with InProcessRuntime(model(provider), pools=ONE, settings=settings(budgets=budgets)) as runtime:
        modules = ["dspy.Predict"] * 6
        program = await runtime.adapter().acreate_program("question -> answer", modules=modules)
        before = len(provider.requests)
        with pytest.raises(dspex.BudgetExceeded) as caught:
            await program.acall(question="q")
        assert caught.value.details["stage"] > 1
        assert 1 <= len(provider.requests) - before <= 3
        assert (await runtime.adapter().agenerate("q")).response == "q"


@pytest.mark.parametrize(
    "budget", [3, {"tokens": 5}, dspex.Budget(), dspex.Budget(tokens=-1), dspex.Budget(cost=True)]
)
async def test_what_is_no_budget_is_refused(runtime: dspex.Runtime, budget: Any) -> None:
    """If this failed, a slip in a budget would be no budget."""
    with pytest.raises(dspex.InvalidOption):
        await runtime.adapter().agenerate("q", budget=budget)


# Prices that nobody knows


async def test_money_alone_needs_a_price(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a budget in money would allow a model without a price everything."""
    lm, adapter = model(provider, "openai/nobody-knows-it"), runtime.adapter()
    with pytest.raises(dspex.BudgetExceeded, match="price is not known"):
        await adapter.agenerate("q", lm=lm, budget=dspex.Budget(cost=5.0))
    answer = await adapter.agenerate("q", lm=lm, budget=dspex.Budget(cost=5.0, tokens=5000))
    assert answer.response == "q"


# Tenants


async def test_calls_are_refused_once_the_budget_of_their_tenant_is_spent(
    runtime: dspex.Runtime, provider: Provider
) -> None:
    """If this failed, one customer would spend what the others pay for."""
    adapter, before = runtime.adapter(tenant="few"), len(provider.requests)
    came, error = await until_refused(lambda: adapter.agenerate("q"))
    answers = len(came)
    assert answers == len(provider.requests) - before
    assert 3 <= answers <= 6
    assert error.details["name"] == "few"
    assert error.details["day"]
    stats = spent(runtime, "tenant", "few")
    assert stats.tokens == answers * CALL
    assert stats.cost > 0
    assert stats.reserved_tokens == 0
    assert (await runtime.adapter(tenant="another").agenerate("q")).response == "q"


async def test_two_hundred_at_once_go_over_by_no_more_than_was_reserved(
    runtime: dspex.Runtime, provider: Provider
) -> None:
    """If this failed, a burst of calls would spend a budget many times over."""
    provider.reply = lambda _: delayed(0.05, echo())
    adapter, before = runtime.adapter(tenant="many"), len(provider.requests)
    ended = await asyncio.gather(*(adapter.agenerate("q") for _ in range(200)), return_exceptions=True)
    answered = [one for one in ended if isinstance(one, dspex.Response)]
    refused = [one for one in ended if isinstance(one, dspex.BudgetExceeded)]
    assert len(answered) + len(refused) == 200
    assert len(answered) == len(provider.requests) - before
    assert answered
    total = sum(one.usage.total_tokens for one in answered)
    assert total <= 6000 + 400  # what is reserved for one request is less
    stats = spent(runtime, "tenant", "many")
    assert (stats.tokens, stats.reserved_tokens) == (total, 0)


async def test_a_budget_in_money_counts_by_the_price_of_the_model(
    runtime: dspex.Runtime, provider: Provider
) -> None:
    """If this failed, dollars would be counted that nobody pays, or not those that are paid."""
    adapter = runtime.adapter(tenant="poor")
    came, error = await until_refused(lambda: adapter.agenerate("q"))
    cost = sum(one.cost or 0.0 for one in came)
    assert error.details["unit"] == "cost"
    assert error.details["spent"] == pytest.approx(cost)
    assert 0.00005 < cost < 0.0002


async def test_streams_are_paid_for_and_refused_as_calls_are(
    runtime: dspex.Runtime, provider: Provider
) -> None:
    """If this failed, whoever streams would have no budget."""
    adapter = runtime.adapter(tenant="streams")

    async def ask() -> list[Any]:
        async with adapter.astream("q") as stream:
            return [event async for event in stream]

    came, _ = await until_refused(ask)
    assert all(isinstance(events[-1], dspex.Final) for events in came)
    assert CALL <= spent(runtime, "tenant", "streams").tokens <= 450


async def test_items_of_a_batch_are_refused_one_by_one(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a batch would run through a budget, or lose the rows that were paid."""
    items = [{"question": f"q{n}"} for n in range(30)]
    outcomes = await runtime.adapter(tenant="batches").abatch(items, signature="question -> answer")
    assert [one.index for one in outcomes] == list(range(30))
    refused = [one for one in outcomes if not one.ok]
    assert all(isinstance(one.error, dspex.BudgetExceeded) for one in refused)
    assert 0 < len(refused) < 30


async def test_a_call_that_waits_is_refused_when_its_budget_is_spent(provider: Provider) -> None:
    """If this failed, calls would wait out their deadlines for a budget that is gone."""
    tenants = {"queue": dspex.Budget(tokens=300)}
    lm = model(provider, limits=dspex.Limits(in_flight=1))
    provider.reply = lambda _: delayed(0.1, fields(response="word " * 1000))  # all of it, and more
    async with InProcessRuntime(lm, pools=ONE, settings=settings(tenant_budgets=tenants)) as runtime:
        adapter = runtime.adapter(tenant="queue", timeout=60.0)
        ended = await asyncio.gather(*(adapter.agenerate("q") for _ in range(20)), return_exceptions=True)
        assert sum(isinstance(one, dspex.Response) for one in ended) == 1
        assert sum(isinstance(one, dspex.BudgetExceeded) for one in ended) == 19
        assert runtime.stats().pools["general"].queued == 0
        assert runtime.stats().pools["general"].counters["budget_exceeded"] == 19


# What failed requests have cost


@pytest.mark.parametrize("status", [500, 429, 401])
async def test_what_the_provider_refused_costs_nothing(
    runtime: dspex.Runtime, provider: Provider, status: int
) -> None:
    """If this failed, an outage would spend the budget."""
    provider.reply = lambda _: fault(status)
    with pytest.raises(dspex.LMError):
        await runtime.adapter(tenant="refused").agenerate("q", lm=model(provider, f"openai/r{status}"))
    stats = spent(runtime, "tenant", "refused")
    assert (stats.tokens, stats.reserved_tokens) == (0, 0)


async def test_a_request_whose_end_nobody_heard_of_counts_as_it_was_reserved(provider: Provider) -> None:
    """If this failed, requests that time out would be free, and the provider's bill would say otherwise."""
    provider.reply = lambda _: hanging()
    budgets = {"day": dspex.Budget(tokens=10_000)}
    lm = model(provider, timeout=0.2)
    async with InProcessRuntime(lm, pools=ONE, settings=settings(budgets=budgets)) as runtime:
        with pytest.raises(dspex.LMTimeout):
            await runtime.adapter().agenerate("q")
        stats = spent(runtime, "day")
        assert stats.tokens > 256
        assert stats.reserved_tokens == 0


async def test_what_a_lost_worker_had_reserved_counts_and_is_free_again(provider: Provider) -> None:
    """If this failed, each crash would take a part of the budget with it for ever, or make requests free."""
    provider.reply = lambda _: hanging()
    budgets = {"day": dspex.Budget(tokens=100_000)}
    async with dspex.Runtime(
        model(provider),
        pools={"general": dspex.PoolOptions(workers=1, max_reruns=0)},
        settings=settings(budgets=budgets),
    ) as runtime:
        before = len(provider.requests)
        calls = [asyncio.create_task(runtime.adapter().agenerate("q")) for _ in range(5)]
        while len(provider.requests) < before + 5:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert spent(runtime, "day").reserved_tokens > 5 * 256
        os.kill(runtime.stats().pools["general"].workers[0].pid, signal.SIGKILL)
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(one, dspex.PoolError) for one in ended)
        stats = spent(runtime, "day")
        assert stats.tokens > 5 * 256
        assert (stats.reserved_tokens, stats.reserved_cost) == (0, 0)


# Programs of the user's own, alone in their workers


@pytest.mark.parametrize("module", ["Router", "AsyncRouter", "SharedAsync", "SharedSync"])
async def test_a_program_of_ones_own_has_a_budget(
    runtime: dspex.Runtime, provider: Provider, module: str
) -> None:
    """If this failed, whoever writes a program would have all the money there is."""
    how: dict[str, Any] = {"module": f"tests.programs:{module}"}
    before = len(provider.requests)
    with pytest.raises(dspex.BudgetExceeded) as caught:
        await runtime.adapter().agenerate("q", budget=dspex.Budget(tokens=20), **how)
    assert caught.value.details["scope"] == "call"
    assert len(provider.requests) == before
    answer = await runtime.adapter().agenerate("q", budget=dspex.Budget(tokens=50_000), **how)
    assert answer.usage.total_tokens > 0


# Sessions, days, and restarts


async def test_a_session_has_a_budget_for_its_life(provider: Provider, tmp_path: Path) -> None:
    """If this failed, a restart would give every conversation its budget anew."""
    store = tmp_path / "store.db"
    async with InProcessRuntime(model(provider), pools=ONE, store=store, settings=settings()) as runtime:
        adapter = runtime.adapter()
        session = await adapter.asession("talk", budget=dspex.Budget(tokens=500))
        for _ in range(2):
            await adapter.agenerate("q", session=session)
    async with InProcessRuntime(model(provider), pools=ONE, store=store, settings=settings()) as runtime:
        adapter = runtime.adapter()
        came, error = await until_refused(lambda: adapter.agenerate("q", session="talk"))
        turns = 2 + len(came)
        assert (error.details["scope"], error.details["name"]) == ("session", "talk")
        assert 3 <= turns <= 5
        assert error.details["spent"] == turns * CALL
        assert (await adapter.agenerate("q", session="other")).response == "q"
        await adapter.asession("talk", budget=dspex.Budget(tokens=50_000))
        assert (await adapter.agenerate("q", session="talk")).response == "q"


async def test_what_a_day_has_cost_is_known_after_a_restart(provider: Provider, tmp_path: Path) -> None:
    """If this failed, restarting a service would double what it may spend."""
    how: dict[str, Any] = {
        "pools": ONE,
        "store": tmp_path / "store.db",
        "settings": settings(budgets={"day": dspex.Budget(tokens=500), "tenant": dspex.Budget(tokens=400)}),
    }
    async with InProcessRuntime(model(provider), **how) as runtime:
        await runtime.adapter(tenant="a").agenerate("q")
        await runtime.adapter(tenant="b").agenerate("q")
    async with InProcessRuntime(model(provider), **how) as runtime:
        await runtime.adapter(tenant="a").agenerate("q")
        assert spent(runtime, "tenant", "a").tokens == 2 * CALL
        assert spent(runtime, "day").tokens == 3 * CALL
        adapter = runtime.adapter(tenant="b")
        _, error = await until_refused(lambda: adapter.agenerate("q"), most=3)
        assert error.details["scope"] == "day"


async def test_a_new_day_has_its_whole_budget(provider: Provider, tmp_path: Path) -> None:
    """If this failed, a budget that was spent once would be spent for ever."""
    days = [datetime(2026, 1, 31, 23, 59, tzinfo=UTC)]
    how: dict[str, Any] = {"pools": ONE, "settings": settings(budgets={"day": dspex.Budget(tokens=250)})}
    async with InProcessRuntime(model(provider), store=tmp_path / "store.db", **how) as runtime:
        runtime.core.budgets._today = lambda: days[-1]
        adapter = runtime.adapter()
        _, error = await until_refused(lambda: adapter.agenerate("q"), most=5)
        assert error.details["day"] == "2026-01-31"
        await runtime.core.budgets.written()
        days.append(datetime(2026, 3, 31, 0, 1, tzinfo=UTC))
        assert (await adapter.agenerate("q")).response == "q"
        assert [(one.day, one.tokens) for one in runtime.stats().budgets] == [("2026-03-31", CALL)]


async def test_two_processes_spend_from_one_budget(provider: Provider, tmp_path: Path) -> None:
    """If this failed, each process of a service would have the whole budget."""
    how: dict[str, Any] = {
        "pools": ONE,
        "store": tmp_path / "store.db",
        "settings": settings(budgets={"day": dspex.Budget(tokens=10_000)}),
    }
    async with (
        InProcessRuntime(model(provider), **how) as one,
        InProcessRuntime(model(provider), **how) as two,
    ):
        for _ in range(3):
            await one.adapter().agenerate("q")
            await one.core.budgets.written()
            await two.adapter().agenerate("q")
            await two.core.budgets.written()
        assert spent(two, "day").tokens == 6 * CALL


def test_budgets_are_read_from_a_file(tmp_path: Path) -> None:
    """If this failed, an operator's budget would not hold, and nobody would say so."""
    file = tmp_path / "dspex.toml"
    file.write_text(
        "[budgets.tenant]\ncost = 5.0\n[budgets.call]\ntokens = 1000\n[tenant_budgets.acme]\ncost = 50\n"
    )
    read = dspex.Settings(file=file)
    assert dict(read.budgets) == {"tenant": dspex.Budget(cost=5.0), "call": dspex.Budget(tokens=1000)}
    assert dict(read.tenant_budgets) == {"acme": dspex.Budget(cost=50)}
    assert read.sources()["budgets.tenant.cost"].value == 5.0
    for wrong, place in (
        ("[budgets.month]\ncost = 5.0\n", "month"),
        ("[budgets.day]\ncost = 'much'\n", "dspex.toml:2"),
        ("[budgets.day]\ncost = -1\n", "dspex.toml:2"),
        ("[budgets.day]\n", "dspex.toml:1"),
    ):
        file.write_text(wrong)
        with pytest.raises(dspex.InvalidOption, match=place):
            dspex.Settings(file=file)
