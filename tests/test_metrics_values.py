"""Every metric has the value that what has happened gives it, with the labels that it is promised with."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import dspex
from dspex.telemetry import bus
from dspex.telemetry.prometheus import METRICS
from tests.processes import until
from tests.provider import Provider, Reply, Request, echo, fault, fields

QUESTION = "question -> answer"
MODEL = "openai/gpt-4o-mini"  # DSPy knows its price
PREDICT = {"pool": "general", "module": "dspy.Predict"}


class Numbers:
    """What a runtime's metrics say."""

    def __init__(self, runtime: dspex.Runtime) -> None:
        self._runtime = runtime

    def every(self, name: str) -> dict[tuple[tuple[str, str], ...], float]:
        """The samples of one name, by their labels."""
        bare = name.removesuffix("_total").removesuffix("_count").removesuffix("_sum").removesuffix("_bucket")
        labels = METRICS[bare][1]
        found = {}
        for family in text_string_to_metric_families(self._runtime.metrics()):
            for sample in family.samples:
                if sample.name == name:
                    assert set(sample.labels) - {"le"} == set(labels)
                    found[tuple(sorted(sample.labels.items()))] = sample.value
        return found

    def of(self, name: str, **labels: str | None) -> float:
        """One of them."""
        return self.every(name)[tuple(sorted((label, value or "") for label, value in labels.items()))]


def reply(request: Request) -> Reply:
    asked = request.prompt.user
    if "bad" in asked:
        return fault(400)
    return fields(answer="Paris") if "Where" in asked else echo()


def model(provider: Provider, name: str = MODEL, **options: Any) -> dspex.LM:
    known = {"api_key": "k", "retry": dspex.Retry(attempts=1, wait=0.0)}
    return dspex.LM(name, base_url=provider.base_url, **{**known, **options})


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


@pytest.fixture
def runtime(provider: Provider) -> Iterator[dspex.Runtime]:
    provider.reply = reply
    settings = dspex.Settings(file=False, allow_modules=["tests.stuck"])
    pools = {"general": dspex.PoolOptions(workers=1, slots=1)}
    with dspex.Runtime(model(provider), pools=pools, settings=settings) as opened:
        yield opened


def test_calls_and_lm_requests(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, an alert on the share of errors, or a bill, would be wrong."""
    adapter, numbers = runtime.adapter(), Numbers(runtime)
    answers = [adapter.generate(f"Where {number}?", signature=QUESTION) for number in range(3)]
    for _ in range(2):
        with pytest.raises(dspex.LMInvalidRequest):
            adapter.generate("bad", signature=QUESTION)
    with pytest.raises(dspex.InvalidInput):
        adapter.generate("refused", signature="a, b -> c")
    outcomes = {"ok": 3, "lm_invalid_request": 2, "invalid_input": 1}
    assert numbers.every("dspex_calls_total") == {
        (("code", code), ("module", "dspy.Predict"), ("pool", "general")): count
        for code, count in outcomes.items()
    }
    assert numbers.of("dspex_call_attempts_total", pool="general") == 5, "a refused call had no worker"
    for stage in ("queue", "run", "model", "total"):
        assert numbers.of(f"dspex_call_{stage}_seconds_count", **PREDICT) == 6
    total = numbers.of("dspex_call_total_seconds_sum", **PREDICT)
    assert 0 < numbers.of("dspex_call_run_seconds_sum", **PREDICT) <= total
    seconds = sum(request.seconds for answer in answers for request in answer.requests)
    assert seconds <= numbers.of("dspex_call_model_seconds_sum", **PREDICT) <= total
    assert numbers.of("dspex_call_total_seconds_bucket", **PREDICT, le="+Inf") == 6

    # Those that failed count with those that were answered, whatever the provider calls its model.
    requests = numbers.every("dspex_lm_requests_total")
    assert requests == {
        (("model", MODEL), ("status", "ok")): 3,
        (("model", MODEL), ("status", "lm_invalid_request")): 2,
    }
    assert numbers.of("dspex_lm_request_seconds_count", model=MODEL) == 5
    assert numbers.of("dspex_lm_request_seconds_sum", model=MODEL) > seconds
    for kind in ("prompt", "completion"):
        tokens = sum(getattr(answer.usage, f"{kind}_tokens") for answer in answers)
        assert numbers.of("dspex_lm_tokens_total", model=MODEL, kind=kind) == tokens > 0
    cost = sum(answer.cost or 0.0 for answer in answers)
    assert numbers.of("dspex_lm_cost_dollars_total", model=MODEL) == pytest.approx(cost)
    assert cost > 0


def test_what_a_failed_call_took(runtime: dspex.Runtime) -> None:
    """If this failed, the calls that take longest, those that time out, would count as the shortest."""
    numbers = Numbers(runtime)
    with ThreadPoolExecutor(1) as executor:
        call = executor.submit(runtime.pool().execute, "wait", {"seconds": 600}, timeout=60)
        until(lambda: runtime.stats().pools["general"].workers[0].in_flight == 1)
        with pytest.raises(dspex.PythonTimeout):
            runtime.adapter(timeout=0.5).generate("it waits", signature=QUESTION)
        assert numbers.of("dspex_call_queue_seconds_sum", **PREDICT) >= 0.4
        assert numbers.of("dspex_call_run_seconds_sum", **PREDICT) == 0
        assert numbers.of("dspex_call_attempts_total", pool="general") == 0
        runtime.close()
        call.exception(60)


def test_retries(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a provider that is busy would be noticed by its bill."""
    replies = [fault(503), fault(503), fields(answer="x")]
    provider.reply = lambda _: replies.pop(0)
    lm = model(provider, retry=dspex.Retry(attempts=3, wait=0.0))
    runtime.adapter().generate("q", signature=QUESTION, lm=lm)
    assert Numbers(runtime).of("dspex_lm_retries_total", model=MODEL) == 2


def test_a_cache(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, nobody could tell what the cache is worth."""
    adapter, numbers = runtime.adapter(lm=model(provider, cache=True)), Numbers(runtime)
    for prompt in ("one", "one", "one", "two"):
        adapter.generate(prompt, signature=QUESTION)
    assert numbers.every("dspex_cache_lookups_total") == {(("result", "hit"),): 2, (("result", "miss"),): 2}
    assert numbers.of("dspex_cache_entries") == 2
    assert numbers.of("dspex_cache_bytes") == runtime.stats().cache.bytes > 0


def test_budgets(runtime: dspex.Runtime) -> None:
    """If this failed, tenants would be refused and nobody know."""
    for _ in range(3):
        with pytest.raises(dspex.BudgetExceeded):
            runtime.adapter().generate("q", signature=QUESTION, budget=dspex.Budget(tokens=5))
    assert Numbers(runtime).every("dspex_budget_refusals_total") == {(("scope", "call"),): 3}


def test_breakers_and_fallbacks(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a model that is down would be shown as well."""
    numbers = Numbers(runtime)
    provider.reply = lambda request: fault(503) if request.model == "first" else fields(answer="x")
    second = model(provider, "openai/second")
    breaker = dspex.Breaker(failures=2, share=0.5, pause=600.0)
    lm = model(provider, "openai/first", fallbacks=(second,), breaker=breaker)
    for _ in range(3):
        runtime.adapter().generate("q", signature=QUESTION, lm=lm)
    assert numbers.every("dspex_fallbacks_total") == {
        (("code", "lm_unavailable"), ("model", "openai/first")): 2,
        (("code", "lm_circuit_open"), ("model", "openai/first")): 1,
    }
    assert numbers.every("dspex_breaker_changes_total") == {(("model", "openai/first"), ("state", "open")): 1}
    assert numbers.of("dspex_breaker_state", endpoint=provider.base_url, model="openai/first") == 2
    assert numbers.of("dspex_breaker_state", endpoint=provider.base_url, model="openai/second") == 0


def test_batches(runtime: dspex.Runtime) -> None:
    """If this failed, a batch of which half has failed would look like a whole one."""
    for _ in range(2):
        runtime.adapter().batch(["a", "bad", "b"], signature=QUESTION)
    assert Numbers(runtime).every("dspex_batch_items_total") == {
        (("result", "ok"),): 4,
        (("result", "failed"),): 2,
    }


def test_sessions(runtime: dspex.Runtime) -> None:
    """If this failed, sessions that are never ended would fill the store unseen."""
    numbers = Numbers(runtime)
    assert numbers.of("dspex_sessions_created_total") == 0
    for number in range(3):
        runtime.adapter().session(f"s{number}")
    runtime.adapter().session("s0").delete()
    assert numbers.of("dspex_sessions_created_total") == 3
    assert numbers.every("dspex_sessions_ended_total") == {(("cause", "deleted"),): 1}


def test_pools_and_workers(runtime: dspex.Runtime) -> None:
    """If this failed, a pool that is full, or whose workers die, would look like one at rest."""
    numbers, general = Numbers(runtime), (("pool", "general"),)
    pool = runtime.pool()
    assert pool.execute("ping") == "pong"
    assert numbers.of("dspex_pool_calls_total", pool="general", code="ok") == 1
    assert numbers.every("dspex_pool_healthy")[general] == 1
    assert numbers.every("dspex_pool_workers") == {(("pool", "general"), ("state", "ready")): 1}
    with ThreadPoolExecutor(3) as executor:
        calls = [executor.submit(pool.execute, "wait", {"seconds": 600}, timeout=60) for _ in range(3)]
        until(lambda: numbers.every("dspex_pool_queued")[general] == 2, 60)
        assert numbers.every("dspex_pool_in_flight")[general] == 1
        assert numbers.every("dspex_pool_workers") == {(("pool", "general"), ("state", "busy")): 1}
        (worker,) = runtime.stats().pools["general"].workers
        rss = numbers.of("dspex_worker_rss_bytes", pool="general", slot="0")
        assert 2**20 < rss < 2**32
        assert not numbers.every("dspex_worker_restarts_total")
        os.kill(worker.pid, signal.SIGKILL)
        until(lambda: sum(call.done() for call in calls) == 1, 60)
        restarts = numbers.every("dspex_worker_restarts_total")
        assert restarts == {(("cause", "crashed"), ("pool", "general")): 1}
        assert numbers.of("dspex_pool_calls_total", pool="general", code="worker_lost") == 1
        runtime.close()
        for call in calls:
            call.exception(60)


def test_a_pool_that_does_not_start() -> None:
    """If this failed, an alert on pools that refuse calls would never come."""
    pools = {
        "general": dspex.PoolOptions(workers=1),
        "broken": dspex.PoolOptions(workers=1, preload=["no_such_module_at_all"]),
    }
    with dspex.Runtime(pools=pools, settings=dspex.Settings(file=False), wait=False) as runtime:
        numbers = Numbers(runtime)
        until(lambda: runtime.stats().pools["broken"].unhealthy, 60)
        assert numbers.of("dspex_pool_healthy", pool="broken") == 0
        assert numbers.of("dspex_pool_healthy", pool="general") == 1


def test_subscribers(runtime: dspex.Runtime) -> None:
    """If this failed, a subscriber that misses events would seem to hear all."""
    numbers = Numbers(runtime)
    assert numbers.of("dspex_subscriber_failures_total") == 0

    def broken(_: dspex.CallFinished) -> None:
        raise ValueError

    runtime.on(dspex.CallFinished, broken)
    for _ in range(2):
        runtime.adapter().generate("q", signature=QUESTION)
    until(lambda: numbers.of("dspex_subscriber_failures_total") == 2)
    assert numbers.of("dspex_events_dropped_total") == 0


def test_events_that_are_dropped(runtime: dspex.Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, gaps in what a subscriber was told would be nowhere to be seen."""
    monkeypatch.setattr(bus, "ROOM", 1)
    begun, go_on = threading.Event(), threading.Event()

    def slow(_: dspex.CallFinished) -> None:
        begun.set()
        go_on.wait(60)

    runtime.on(dspex.CallFinished, slow)
    try:
        runtime.adapter().generate("first", signature=QUESTION)
        assert begun.wait(60)
        for _ in range(4):  # one waits, and three find no room
            runtime.adapter().generate("q", signature=QUESTION)
        assert Numbers(runtime).of("dspex_events_dropped_total") == 3
    finally:
        go_on.set()


def test_no_metric_is_left_out() -> None:
    """If this failed, a metric would be promised of which nobody knows whether it is right."""
    source = Path(__file__).read_text("utf-8")
    stages = {f"dspex_call_{stage}_seconds" for stage in ("queue", "run", "model", "total")}
    assert {name for name in METRICS if f'"{name}' in source} | stages == set(METRICS)
