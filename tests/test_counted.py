"""Two hundred calls at once, some streamed, some in batches, as a provider sees them that counts."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any

import pytest

import dspex
from tests.channels import until
from tests.provider import Provider, Reply, Request, delayed, echo, fault, text

pytestmark = pytest.mark.anyio

SIGNATURE = "question -> answer"
TWO = {"general": dspex.PoolOptions(workers=2)}
#: What every answer is, its words (which the provider bills as tokens), and the most that it may have.
ANSWER = "[[ ## answer ## ]]\n" + "word " * 90 + "\n\n[[ ## completed ## ]]"
WORDS, MOST = len(ANSWER.split()), 120
#: US dollars for a token sent and one generated, of the model that is asked.
MODEL, SENT, ANSWERED = "openai/gpt-4o-mini", 0.15e-6, 0.60e-6


class Counting:
    """A provider's bill, by the tenant who is billed.

    Attributes:
        tokens: Tokens.
        dollars: US dollars.
    """

    def __init__(self) -> None:
        self.tokens = dict.fromkeys(("ada", "bob"), 0)
        self.dollars = dict.fromkeys(("ada", "bob"), 0.0)

    def __call__(self, request: Request) -> Reply:
        # The question is the tenant's name.
        whose = next(name for name in self.tokens if f"I am {name}" in request.prompt.user)
        self.tokens[whose] += request.prompt.words + WORDS
        self.dollars[whose] += request.prompt.words * SENT + WORDS * ANSWERED
        return delayed(0.02, text(ANSWER))


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


async def streamed(adapter: dspex.DSPyAdapter, question: str, **call: Any) -> dspex.Response:
    """A stream, to its end."""
    async with adapter.astream(question, signature=SIGNATURE, **call) as stream:
        events = [event async for event in stream]
    assert isinstance(events[-1], dspex.Final)
    return events[-1].response


async def two_hundred(adapter: dspex.DSPyAdapter, question: str, **call: Any) -> list[Any]:
    """Eighty calls, eighty streams and forty items of batches, all at once: responses and errors."""

    async def batch() -> list[Any]:
        items = [{"question": question}] * 10
        found = await adapter.abatch(items, signature=SIGNATURE, concurrency=10, **call)
        return [one.response or one.error for one in found]

    ask: list[Coroutine[Any, Any, Any]] = []
    for _ in range(80):
        ask += [adapter.agenerate(question, signature=SIGNATURE, **call), streamed(adapter, question, **call)]
    random.Random(5).shuffle(ask)
    ended = await asyncio.gather(*(batch() for _ in range(4)), *ask, return_exceptions=True)
    return [one for some in ended for one in (some if isinstance(some, list) else [some])]


def answered(ended: list[Any], *refusals: type[BaseException]) -> list[dspex.Response]:
    """The responses, where all others are refusals of these kinds."""
    assert len(ended) == 200
    found = [one for one in ended if isinstance(one, dspex.Response)]
    assert {type(one) for one in ended} <= {dspex.Response, *refusals}, Counter(map(repr, ended))
    assert len(found) < 200, "something was refused"
    return found


@pytest.mark.parametrize("unit", ["tokens", "cost"])
async def test_budgets_of_a_tenant_and_a_day(provider: Provider, unit: str) -> None:
    """If this failed, many at once would spend a budget several times, streamed or in a batch."""
    bill = provider.reply = Counting()
    per_token = 1.0 if unit == "tokens" else SENT + ANSWERED
    ada, day = 4000 * per_token, 9000 * per_token
    budget = {
        name: dspex.Budget(tokens=int(most)) if unit == "tokens" else dspex.Budget(cost=most)
        for name, most in (("ada", ada), ("day", day))
    }
    settings = dspex.Settings(
        file=False, budgets={"day": budget["day"]}, tenant_budgets={"ada": budget["ada"]}
    )
    lm = dspex.LM(MODEL, api_key="k", base_url=provider.base_url, max_tokens=MOST, retry=dspex.Retry(1))
    async with dspex.Runtime(lm, pools=TWO, settings=settings) as runtime:
        everybody = await asyncio.gather(
            *(
                two_hundred(runtime.adapter(tenant=name, timeout=120), f"I am {name}")
                for name in ("ada", "bob")
            )
        )
        stats = {(one.scope, one.name): one for one in runtime.stats().budgets}
    found = [response for ended in everybody for response in answered(ended, dspex.BudgetExceeded)]
    assert len(found) == len(provider.requests), "what is refused is not sent, and what is sent is answered"
    billed: Mapping[str, float] = bill.tokens if unit == "tokens" else bill.dollars
    over = MOST if unit == "tokens" else MOST * ANSWERED  # the answer that one request reserves
    assert 0 < billed["ada"] <= ada + over
    assert ada < sum(billed.values()) <= day + over
    for spent, limit, most in (
        (stats["tenant", "ada"], billed["ada"], ada),
        (stats["day", ""], sum(billed.values()), day),
    ):
        assert getattr(spent, unit) == pytest.approx(limit)
        assert (spent.reserved_tokens, spent.reserved_cost) == (0, 0)
        assert limit > most / 3, "no more was refused than had to be"
    assert sum(one.usage.total_tokens for one in found) == sum(bill.tokens.values())
    assert sum(one.cost or 0.0 for one in found) == pytest.approx(sum(bill.dollars.values()))


async def test_a_budget_of_each_call_holds_for_each(provider: Provider) -> None:
    """If this failed, a stream or an item of a batch would have no budget, or share another's."""
    bill = provider.reply = Counting()
    lm = dspex.LM(MODEL, api_key="k", base_url=provider.base_url, max_tokens=MOST)
    async with dspex.Runtime(lm, pools=TWO, settings=dspex.Settings(file=False)) as runtime:
        adapter = runtime.adapter(timeout=120)
        enough = await two_hundred(adapter, "I am ada", budget=dspex.Budget(tokens=2000))
        assert all(isinstance(one, dspex.Response) for one in enough), Counter(map(repr, enough))
        assert sum(bill.tokens.values()) > 2000
        before = len(provider.requests)
        assert not answered(
            await two_hundred(adapter, "I am bob", budget=dspex.Budget(tokens=20)), dspex.BudgetExceeded
        )
        assert len(provider.requests) == before
        assert runtime.stats().budgets == []


async def test_limits_hold_for_all_of_them_together(provider: Provider) -> None:
    """If this failed, the provider would refuse, or bill a higher plan, when some streamed."""
    chance = random.Random(3)

    def reply(_: Request) -> Reply:
        drawn = chance.random()
        if drawn < 0.1:
            return fault(429, retry_after=0.02)
        return delayed(0.02, text("no fields here") if drawn < 0.2 else echo())

    provider.reply = reply
    limits = dspex.Limits(requests_per_minute=40, in_flight=4)
    retry = dspex.Retry(attempts=3, wait=0.01)
    lm = dspex.LM("openai/x", base_url=provider.base_url, limits=limits, retry=retry, breaker=None)
    async with dspex.Runtime(lm, pools=TWO) as runtime:
        ended = await two_hundred(runtime.adapter(timeout=2.0), "q")
        await until(lambda: [(one.in_flight, one.waiting) for one in runtime.stats().lms] == [(0, 0)])
        assert runtime.stats().pools["general"].queued == 0
    kinds = (dspex.PythonTimeout, dspex.ParseError, dspex.LMRateLimited)
    assert answered(ended, *kinds)
    at = sorted(request.at for request in provider.requests)
    assert all(sum(first <= one < first + 60 for one in at) <= 40 for first in at)
    assert provider.peak_in_flight <= 4
