"""Tenants: each has its own limits, its own provider and key, and its own workers where that is wanted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Literal

import pytest

import dspex
from dspex.errors import InvalidOption
from dspex.pool.pool import LocalPool
from tests.channels import until
from tests.customers import NAMES, customers
from tests.provider import Provider, Reply, Request, delayed, echo, hanging, text

pytestmark = pytest.mark.anyio
SIGNATURE = "question -> answer"


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as opened:
        yield opened


@pytest.fixture
async def apart(provider: Provider) -> AsyncIterator[dspex.Runtime]:
    """A runtime in which each tenant has its own workers."""
    lm = dspex.LM("openai/x", base_url=provider.base_url)
    pools = {"general": dspex.PoolOptions(workers=1, isolation="tenant")}
    async with dspex.Runtime(lm, pools=pools) as runtime:
        yield runtime


async def test_same_prompt_different_providers(provider: Provider) -> None:
    """If this failed, one customer would see another's answer, or pay for it with his key."""

    def whose(name: str) -> Reply:
        return delayed(0.01, text(f"[[ ## answer ## ]]\n{name}\n[[ ## completed ## ]]"))

    with Provider() as other:
        provider.reply, other.reply = lambda _: whose("ada"), lambda _: whose("bob")
        lms = {
            "ada": dspex.LM("openai/x", base_url=provider.base_url, api_key="sk-ada"),
            "bob": dspex.LM("openai/x", base_url=other.base_url, api_key="sk-bob"),
        }
        async with dspex.Runtime(pools={"general": dspex.PoolOptions(workers=1)}) as runtime:
            adapters = {name: runtime.adapter(lm=lm, tenant=name) for name, lm in lms.items()}

            async def ask(name: str) -> None:
                response = await adapters[name].agenerate("The same", signature=SIGNATURE)
                assert response.answer == name

            await asyncio.gather(*(ask(name) for _ in range(200) for name in lms))
            workers = {worker.pid for worker in runtime.stats().pools["general"].workers}
            assert len(workers) == 1, "both in one worker"
        for name, asked in (("ada", provider), ("bob", other)):
            assert len(asked.requests) == 200
            assert {request.headers["authorization"] for request in asked.requests} == {f"Bearer sk-{name}"}


@pytest.mark.parametrize(
    ("isolation", "kept"), [("shared", None), ("shared", "file"), ("tenant", None), ("tenant", "file")]
)
async def test_the_same_in_every_way_under_load(
    isolation: Literal["shared", "tenant"], kept: str | None, tmp_path: Path
) -> None:
    """If this failed, one kind of call would bring a customer another's answer, or use his key."""
    pools = {"general": dspex.PoolOptions(workers=1, isolation=isolation)}
    seen: dict[str, set[int]] = {name: set() for name in NAMES}
    cache = tmp_path / "answers.db" if kept else None
    with customers(cache=cache) as tenants:
        async with dspex.Runtime(pools=pools) as runtime:

            async def ask(name: str, number: int) -> list[dspex.Response]:
                found = await tenants.ask(runtime, name, number)
                pools = runtime.stats().pools
                seen[name] |= {one.pid for one in pools.get(f"general@{name}", pools["general"]).workers}
                return found

            ended = await asyncio.gather(*(ask(name, number) for number in range(70) for name in NAMES))
        responses = [response for some in ended for response in some]
        assert len(responses) == 3 * (14 * 3 + 14 * 2 + 42)
        assert tenants.wrong == []
        hits = sum(response.cached for response in responses)
        assert hits > 30
        assert sum(tenants.requests.values()) == len(responses) - hits
    assert [len(pids) for pids in seen.values()] == [1, 1, 1]
    assert len(set.union(*seen.values())) == (1 if isolation == "shared" else 3)


async def test_limits_are_each_tenants_own(provider: Provider) -> None:
    """If this failed, one customer's load would use up another's limits."""
    provider.reply = lambda request: hanging() if "slow" in request.prompt.user else echo()
    lm = dspex.LM("openai/x", base_url=provider.base_url, limits=dspex.Limits(in_flight=1))
    async with dspex.Runtime(lm, pools={"general": dspex.PoolOptions(workers=1)}) as runtime:
        adapter = runtime.adapter(timeout=60)
        slow = [
            asyncio.create_task(adapter.agenerate("slow", signature=SIGNATURE, tenant="ada"))
            for _ in range(3)
        ]
        await until(lambda: provider.in_flight == 1)
        answer = await adapter.agenerate("quick", signature=SIGNATURE, tenant="bob")
        assert answer.answer == "quick"
        assert provider.in_flight == 1, "ada's second and third still wait"
        assert {lm.tenant for lm in runtime.stats().lms} == {"ada", "bob"}
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)


async def test_one_key_for_all_tenants_has_one_limit(provider: Provider) -> None:
    """If this failed, tenants together would ask more of a provider than their one key allows."""
    provider.reply = lambda _: delayed(0.02, echo())
    limits = dspex.Limits(in_flight=2, across_tenants=True)
    lm = dspex.LM("openai/x", base_url=provider.base_url, limits=limits)
    async with dspex.Runtime(lm, pools={"general": dspex.PoolOptions(workers=2)}) as runtime:
        adapter = runtime.adapter()
        await asyncio.gather(
            *(
                adapter.agenerate("q", signature=SIGNATURE, tenant=name)
                for name in ("ada", "bob", "eve")
                for _ in range(10)
            )
        )
    assert provider.peak_in_flight == 2


async def test_each_tenant_has_its_own_workers(apart: dspex.Runtime, provider: Provider) -> None:
    """If this failed, what one customer's call leaves in a worker could reach another's."""

    def slow(_: Request) -> Reply:
        return delayed(0.3, echo())

    provider.reply = slow
    adapter = apart.adapter()
    calls = [
        adapter.agenerate("q", signature=SIGNATURE, tenant=name) for name in ("ada", "bob") for _ in range(5)
    ]
    running = asyncio.gather(*calls)
    await until(lambda: provider.in_flight == 10)
    pools = apart.stats().pools
    busy = {name: {worker.pid for worker in pool.workers if worker.in_flight} for name, pool in pools.items()}
    assert len(busy["general@ada"]) == len(busy["general@bob"]) == 1
    assert not busy["general@ada"] & busy["general@bob"]
    assert not busy["general"]
    await running


async def test_workers_of_a_tenant_that_is_gone_are_closed(apart: dspex.Runtime) -> None:
    """If this failed, a service with many customers would fill its memory with their workers."""
    adapter = apart.adapter()
    for name in ("ada", "bob"):
        await adapter.agenerate("q", signature=SIGNATURE, tenant=name)
    await until(lambda: "general@ada" in apart.stats().pools)
    await until(lambda: set(apart.stats().pools) == {"general", "isolated"}, 60)
    stats = apart.stats().pools["general"]
    assert stats.calls == 2
    assert stats.counters == {"ok": 2}
    answer = await adapter.agenerate("again", signature=SIGNATURE, tenant="ada")
    assert answer.answer == "again"


async def test_a_tenant_who_comes_back_finds_his_pool_open(
    apart: dspex.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, a call would fail because another tenant's workers are closed at that moment."""
    for tenant in ("ada", "bob"):
        await apart.adapter(tenant=tenant).agenerate("q", signature=SIGNATURE)
    calls: list[asyncio.Task[dspex.Response]] = []
    stock = LocalPool.aclose

    async def closes(pool: LocalPool) -> None:
        if pool.name in {"general@ada", "general@bob"} and not calls:
            other = "bob" if pool.name == "general@ada" else "ada"
            asked = apart.adapter(tenant=other).agenerate("again", signature=SIGNATURE)
            calls.append(asyncio.create_task(asked))
            has = f"general@{other}"
            await until(lambda: has in apart.stats().pools and apart.stats().pools[has].workers != [])
        await stock(pool)

    monkeypatch.setattr(LocalPool, "aclose", closes)
    await until(lambda: bool(calls), 60)
    assert (await calls[0]).answer == "again"


async def test_calls_without_a_tenant_have_the_pool_itself(apart: dspex.Runtime) -> None:
    """If this failed, a service that has no tenants yet could not set its pool up for them."""
    assert (await apart.adapter().agenerate("q", signature=SIGNATURE)).answer == "q"
    assert set(apart.stats().pools) == {"general", "isolated"}


@pytest.mark.parametrize("name", ["a+b", "general@ada"])
async def test_names_of_pools(name: str) -> None:
    """If this failed, a pool could have the name of one that is made for a tenant."""
    with pytest.raises(InvalidOption, match="pool's name"):
        async with dspex.Runtime(pools={name: dspex.PoolOptions()}):
            pass
