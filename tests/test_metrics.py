"""Metrics, insights and events: each is told with the right value, and they agree with one another."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import dspex
from dspex.telemetry import logs
from dspex.telemetry.buckets import Percentiles
from dspex.telemetry.insights import Insights
from dspex.telemetry.prometheus import METRICS
from tests.processes import until
from tests.provider import Provider, Reply, Request, delayed, echo, fault, hanging

SIGNATURE = "question -> answer"
_CANARY = "canary-sk-4711"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as opened:
        yield opened


@pytest.fixture
def runtime(provider: Provider) -> Iterator[dspex.Runtime]:
    lm = dspex.LM(
        "openai/gpt-4o-mini", base_url=provider.base_url, api_key=_CANARY, retry=dspex.Retry(attempts=1)
    )
    with dspex.Runtime(lm, pools={"general": dspex.PoolOptions(workers=1)}) as opened:
        yield opened


def samples(runtime: dspex.Runtime) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(runtime.metrics())
        for sample in family.samples
    }


def value(runtime: dspex.Runtime, name: str, **labels: str) -> float:
    return samples(runtime)[name, tuple(sorted(labels.items()))]


def mixed(_: Request) -> Reply:
    """Answers by what is asked."""
    asked = _.prompt.user
    if "hang" in asked:
        return hanging()
    return fault(400) if "bad" in asked else echo()


async def _mixed_load(runtime: dspex.Runtime) -> Counter[str]:
    """Calls of every end; how many of each."""
    adapter = runtime.adapter(timeout=20)
    same = dspex.LM(**{**_lm(runtime), "cache": True})

    async def ask(prompt: str, **how: Any) -> str:
        try:
            await adapter.agenerate(prompt, **{"signature": SIGNATURE, **how})
        except dspex.DspexError as error:
            return error.code
        except asyncio.CancelledError:
            return "cancelled"
        return "ok"

    leaving = [asyncio.create_task(ask(f"hang {number}")) for number in range(3)]
    calls = [ask(f"fine {number}") for number in range(20)]
    calls += [ask(f"bad {number}") for number in range(5)]
    calls += [ask(f"hang late {number}", timeout=0.3) for number in range(2)]
    calls += [ask("refused", signature="a, b -> c") for _ in range(4)]
    calls += [ask("twice", lm=same) for _ in range(10)]
    ends = Counter(await asyncio.gather(*calls))
    for task in leaving:
        task.cancel()
    ends.update(await asyncio.gather(*leaving))
    return ends


def _lm(runtime: dspex.Runtime) -> dict[str, Any]:
    lm = runtime.core.models.find(None)
    return {"model": lm.model, "base_url": lm.base_url, "api_key": lm.api_key, "retry": lm.retry}


def test_events_metrics_insights_and_stats_agree(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, two dashboards would tell two stories, and nobody would know which is true."""
    provider.reply = mixed
    heard: list[dspex.CallFinished] = []
    runtime.on(dspex.CallFinished, heard.append)
    ends = asyncio.run(_mixed_load(runtime))
    assert ends == {
        "ok": 30,
        "lm_invalid_request": 5,
        "python_timeout": 2,
        "invalid_input": 4,
        "cancelled": 3,
    }
    until(lambda: len(heard) == sum(ends.values()))
    assert Counter(event.code for event in heard) == ends
    for code, count in ends.items():
        assert value(runtime, "dspex_calls_total", pool="general", module="dspy.Predict", code=code) == count
    insights = runtime.insights()
    assert sum(insight.calls for insight in insights) == sum(ends.values())
    assert sum((Counter(insight.errors) for insight in insights), Counter()) == +(ends - Counter(ok=999))
    tokens = sum(event.prompt_tokens + event.completion_tokens for event in heard)
    assert sum(insight.prompt_tokens + insight.completion_tokens for insight in insights) == tokens
    found = samples(runtime)
    assert sum(v for (name, _), v in found.items() if name == "dspex_lm_tokens_total") == tokens
    assert (
        sum(event.cached for event in heard) == 9 == value(runtime, "dspex_cache_lookups_total", result="hit")
    )
    stats = runtime.stats()
    ran = sum((Counter(pool.counters) for pool in stats.pools.values()), Counter())
    assert ran["ok"] == ends["ok"] - 9
    assert ran["python_timeout"] == 2
    assert value(runtime, "dspex_pool_calls_total", pool="general", code="ok") == ran["ok"]
    requests = sum(v for (name, _), v in found.items() if name == "dspex_lm_requests_total")
    # A caller who leaves hears of no requests; they were made all the same.
    assert requests == sum(event.requests for event in heard) + ends["cancelled"]


def test_each_documented_metric_is_there_and_no_other(runtime: dspex.Runtime) -> None:
    """If this failed, an alert would watch what is never told, or somebody depend on what is not promised."""
    page = (Path(__file__).parents[1] / "docs" / "reference" / "metrics.md").read_text()
    told = {family.name for family in text_string_to_metric_families(runtime.metrics())}
    assert told == set(METRICS)
    for name, (kind, labels, text) in METRICS.items():
        shown = f"{name}_total" if kind == "counter" else name
        assert f"| `{shown}` | {kind} | {', '.join(labels)} | {text} |" in page


def test_nothing_of_a_call_is_told(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, keys and customers' words would be in monitoring, where many may look."""
    provider.reply = lambda _: echo()
    stream = io.StringIO()
    handler = logs.to_json(stream, "debug")
    heard: list[dspex.Event] = []
    runtime.on(dspex.Event, heard.append)
    try:
        runtime.adapter(tenant="tenant-secret").generate("words-secret", signature=SIGNATURE)
        until(lambda: any(isinstance(event, dspex.CallFinished) for event in heard))
    finally:
        logging.getLogger("dspex").removeHandler(handler)
        logging.getLogger("dspex").setLevel(logging.NOTSET)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    (call,) = [line for line in lines if line["logger"] == "dspex.calls"]
    assert call["code"] == "ok"
    assert call["request_id"] == next(e for e in heard if isinstance(e, dspex.CallFinished)).request_id
    everything = runtime.metrics() + stream.getvalue() + repr(runtime.insights())
    for secret in (_CANARY, "words-secret", "tenant-secret"):
        assert secret not in everything
    assert _CANARY not in repr(heard)
    assert "words-secret" not in repr(heard)


def test_labels_are_bounded(runtime: dspex.Runtime) -> None:
    """If this failed, a caller who makes up names would fill the memory of whatever scrapes this."""
    event = dspex.LMRequestFinished(
        model="",
        status="ok",
        seconds=0.1,
        prompt_tokens=1,
        completion_tokens=1,
        cost=None,
        retries=0,
        pool="p",
    )
    import msgspec

    for number in range(1000):
        runtime.core.metrics.hear(msgspec.structs.replace(event, model=f"made-up-{number}"))
    models = {
        dict(labels)["model"] for (name, labels) in samples(runtime) if name == "dspex_lm_requests_total"
    }
    assert len(models) <= 201
    assert "others" in models


def test_percentiles_and_windows() -> None:
    """If this failed, a slow hour would look like a good one."""
    found = Percentiles()
    for number in range(1, 1001):
        found.add(number / 1000)
    for share in (0.5, 0.95, 0.99):
        assert found.at(share) == pytest.approx(share, rel=0.06)
    assert Percentiles().at(0.5) is None

    now = [1000.0]
    insights = Insights(lambda: now[0])

    def call(total: float, code: str = "ok") -> dspex.CallFinished:
        return dspex.CallFinished(
            request_id="r", pool="p", module="m", tenant="", session_id=None, program="f", code=code,
            model="x", queued=0.0, run=total, lm=total, total=total, prompt_tokens=1, completion_tokens=2,
            cost=0.5, attempts=1, requests=1, cached=False,
        )  # fmt: skip

    for _ in range(10):
        insights.hear(call(1.0))
    now[0] += 70
    for _ in range(20):
        insights.hear(call(2.0))
    insights.hear(call(9.0, "parse_error"))
    (one,) = insights.over(60)
    assert (one.calls, one.errors, one.cost) == (21, {"parse_error": 1}, 10.5)
    assert one.rate_change == pytest.approx(2.1)
    assert one.p50_change == pytest.approx(2.0, rel=0.06)
    assert one.slowest == "model"
    now[0] += 10_000
    assert insights.over(60) == []
    for _ in range(100):  # as many each second, looked at in the middle of a slice
        insights.hear(call(1.0))
        now[0] += 1.0
    now[0] -= 0.5
    for window in (10, 30):
        (one,) = insights.over(window)
        assert one.rate == pytest.approx(1.0, rel=0.1)
        assert one.rate_change == pytest.approx(1.0, rel=0.1)
    now[0] += 10_000
    assert insights.over(60) == []


def test_without_telemetry(provider: Provider) -> None:
    """If this failed, who wants none would pay for it."""
    provider.reply = lambda _: delayed(0.0, echo())
    lm = dspex.LM("openai/x", base_url=provider.base_url)
    settings = dspex.Settings(file=False, telemetry=False)
    with dspex.Runtime(lm, pools={"general": dspex.PoolOptions(workers=1)}, settings=settings) as runtime:
        runtime.adapter().generate("q", signature=SIGNATURE)
        assert runtime.insights() == []
        assert value(runtime, "dspex_pool_calls_total", pool="general", code="ok") == 1
        assert not any(name == "dspex_calls_total" for name, _ in samples(runtime))
        with pytest.raises(dspex.InvalidOption, match="window"):
            runtime.insights(window=1)
