"""Who goes next when calls wait: tenants in turn, people before jobs, nobody with more than a share."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import dspex
from tests.processes import lines, until
from tests.provider import Provider, Reply, Request, delayed, echo

SETTINGS = dspex.Settings(allow_modules=("tests.stuck",))


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


@pytest.fixture(scope="module")
def runtime(provider: Provider) -> Iterator[dspex.Runtime]:
    lm = dspex.LM("openai/x", base_url=provider.base_url)
    pools = {
        "general": dspex.PoolOptions(workers=1, slots=1),
        "shared": dspex.PoolOptions(workers=1, slots=4, max_share=0.5),
        "tiny": dspex.PoolOptions(workers=1, slots=1, max_queue=4),
    }
    with dspex.Runtime(lm, pools=pools, settings=SETTINGS) as opened:
        yield opened


@pytest.fixture
def asked(provider: Provider) -> list[str]:
    """The prompts in the order in which the provider saw them."""
    seen: list[str] = []

    def reply(request: Request) -> Reply:
        seen.append(re.findall(r"call-\w+", json.dumps(request.body))[-1])
        return delayed(0.05, echo())

    provider.reply = reply
    return seen


def held(runtime: dspex.Runtime, pool: str, executor: ThreadPoolExecutor, mark: Path) -> Future[Any]:
    """Have the pool's only slot taken, so that what follows has to wait."""
    taken = executor.submit(runtime.pool(pool).execute, "wait", {"seconds": 1.0, "mark": str(mark)})
    until(lambda: lines(mark))
    return taken


def queued(runtime: dspex.Runtime, pool: str, count: int) -> None:
    until(lambda: runtime.stats().pools[pool].queued == count)


def test_a_tenant_that_floods_the_pool_holds_nobody_up(
    runtime: dspex.Runtime, asked: list[str], tmp_path: Path
) -> None:
    """If this failed, one customer's thousand calls would come before another's first."""
    loud, quiet = runtime.adapter(tenant="loud"), runtime.adapter(tenant="quiet")
    with ThreadPoolExecutor(16) as executor:
        held(runtime, "general", executor, tmp_path / "mark")
        flood = [executor.submit(loud.generate, f"call-loud{n}") for n in range(8)]
        queued(runtime, "general", 8)
        few = [executor.submit(quiet.generate, f"call-quiet{n}") for n in range(2)]
        queued(runtime, "general", 10)
        for call in (*flood, *few):
            call.result(30)
    places = [place for place, name in enumerate(asked) if name.startswith("call-quiet")]
    assert places == [1, 3]


def test_a_call_may_name_its_own_tenant(runtime: dspex.Runtime, asked: list[str], tmp_path: Path) -> None:
    """If this failed, a service with one adapter could not tell its customers apart."""
    adapter = runtime.adapter(tenant="loud")
    with ThreadPoolExecutor(8) as executor:
        held(runtime, "general", executor, tmp_path / "mark")
        flood = [executor.submit(adapter.generate, f"call-loud{n}") for n in range(4)]
        queued(runtime, "general", 4)
        one = executor.submit(adapter.generate, "call-quiet", tenant="quiet")
        queued(runtime, "general", 5)
        for call in (*flood, one):
            call.result(30)
    assert asked.index("call-quiet") == 1


def test_people_go_before_jobs(runtime: dspex.Runtime, asked: list[str], tmp_path: Path) -> None:
    """If this failed, somebody who waits for an answer would wait for the nightly job."""
    adapter = runtime.adapter()
    with ThreadPoolExecutor(16) as executor:
        held(runtime, "general", executor, tmp_path / "mark")
        jobs = [executor.submit(adapter.generate, f"call-job{n}", priority="batch") for n in range(4)]
        queued(runtime, "general", 4)
        people = [executor.submit(adapter.generate, f"call-person{n}") for n in range(9)]
        queued(runtime, "general", 13)
        for call in (*jobs, *people):
            call.result(30)
    assert [name.startswith("call-job") for name in asked[:9]] == [False] * 7 + [True, False]


def test_no_tenant_has_more_than_its_share(runtime: dspex.Runtime, tmp_path: Path) -> None:
    """If this failed, one customer's slow calls could hold every slot of the pool."""
    mark, other = tmp_path / "mark", tmp_path / "other"
    pool = runtime.pool("shared")
    with ThreadPoolExecutor(8) as executor:
        greedy = [
            executor.submit(pool.execute, "wait", {"seconds": 1.0, "mark": str(mark)}, tenant="greedy")
            for _ in range(4)
        ]
        until(lambda: len(lines(mark)) == 2)
        queued(runtime, "shared", 2)
        assert pool.execute("wait", {"seconds": 0, "mark": str(other)}, tenant="modest") == "waited"
        assert lines(other), "half of the pool was free for others"
        assert len(lines(mark)) == 2
        assert [call.result(20) for call in greedy] == ["waited"] * 4


def test_a_full_queue_says_when_to_come_again(runtime: dspex.Runtime, tmp_path: Path) -> None:
    """If this failed, callers that are refused would come back at once, or far too late."""
    pool = runtime.pool("tiny")
    with ThreadPoolExecutor(8) as executor:
        for _ in range(5):
            pool.execute("wait", {"seconds": 0.2})
        running = [executor.submit(pool.execute, "wait", {"seconds": 0.2}) for _ in range(5)]
        queued(runtime, "tiny", 4)
        with pytest.raises(dspex.PoolSaturated) as caught:
            pool.execute("ping")
        assert caught.value.retry_after is not None
        assert 0.1 <= caught.value.retry_after <= 10.0
        assert [call.result(20) for call in running] == ["waited"] * 5


@pytest.mark.parametrize("tenant", ["", "x" * 201, 7, "\ud800", "a\0b"])
def test_what_is_no_tenant_is_refused(runtime: dspex.Runtime, tenant: Any) -> None:
    """If this failed, a slip would put all customers into one lane, or break the wire."""
    with pytest.raises(dspex.InvalidOption, match="tenant"):
        runtime.adapter(tenant=tenant)
    with pytest.raises(dspex.InvalidOption, match="tenant"):
        runtime.adapter().generate("?", tenant=tenant)
    with pytest.raises(dspex.InvalidOption, match="tenant"):
        runtime.pool().execute("ping", tenant=tenant)


def test_what_is_no_priority_is_refused(runtime: dspex.Runtime) -> None:
    """If this failed, a job that names its priority wrongly would go before people."""
    with pytest.raises(dspex.InvalidOption, match="'interactive' or 'batch'"):
        runtime.adapter().generate("?", priority="low")  # type: ignore[arg-type]
