"""Metrics as Prometheus reads them, in a registry of dspex's own.

What is counted as it happens comes from events, and costs a few list operations each; how things stand is
asked when somebody looks. No label has values without bound: tenants, sessions, workers and requests are no
labels.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from dspex.telemetry.buckets import Histogram
from dspex.telemetry.bus import Bus
from dspex.telemetry.events import (
    BatchFinished,
    BreakerChanged,
    BudgetRefused,
    CacheHit,
    CacheMiss,
    CallFinished,
    Event,
    FellBack,
    LMRequestFinished,
    SessionCreated,
    SessionEnded,
)
from dspex.telemetry.series import CallSeries, Labels, RequestSeries

if TYPE_CHECKING:
    from prometheus_client.core import Metric

# Values of one label that are told apart; what comes on top is "others".
_TOLD_APART = 200
_OTHERS = "others"
#: The events that are counted.
HEARD: tuple[type[Event], ...] = (
    CallFinished,
    LMRequestFinished,
    CacheHit,
    CacheMiss,
    BudgetRefused,
    BreakerChanged,
    FellBack,
    BatchFinished,
    SessionCreated,
    SessionEnded,
)

#: Every metric: its kind, its labels, and what it is.
METRICS: dict[str, tuple[str, Labels, str]] = {
    "dspex_calls": ("counter", ("pool", "module", "code"), "Calls of modules by how they ended."),
    "dspex_call_attempts": ("counter", ("pool",), "How often calls of modules were given to a worker."),
    "dspex_call_queue_seconds": ("histogram", ("pool", "module"), "Seconds that calls waited for a slot."),
    "dspex_call_run_seconds": ("histogram", ("pool", "module"), "Seconds that workers ran calls."),
    "dspex_call_model_seconds": ("histogram", ("pool", "module"), "Seconds of the LM requests of calls."),
    "dspex_call_total_seconds": ("histogram", ("pool", "module"), "Seconds from question to end."),
    "dspex_lm_requests": ("counter", ("model", "status"), "LM requests by how they ended."),
    "dspex_lm_request_seconds": ("histogram", ("model",), "Seconds of LM requests, retries included."),
    "dspex_lm_retries": ("counter", ("model",), "How often LM requests were tried again."),
    "dspex_lm_tokens": ("counter", ("model", "kind"), "Tokens: prompt and completion."),
    "dspex_lm_cost_dollars": ("counter", ("model",), "US dollars, as far as prices are known."),
    "dspex_cache_lookups": ("counter", ("result",), "Calls that a cache was asked for: hit or miss."),
    "dspex_budget_refusals": ("counter", ("scope",), "Calls and LM requests that a budget refused."),
    "dspex_breaker_changes": ("counter", ("model", "state"), "Changes of circuit breakers."),
    "dspex_fallbacks": (
        "counter",
        ("model", "code"),
        "Calls whose LM did not answer, so that another was asked.",
    ),
    "dspex_batch_items": ("counter", ("result",), "Items of batches that have ended: ok or failed."),
    "dspex_sessions_created": ("counter", (), "Sessions that were made."),
    "dspex_sessions_ended": ("counter", ("cause",), "Sessions that are no more."),
    "dspex_pool_calls": ("counter", ("pool", "code"), "All calls to a pool by how they ended, commands too."),
    "dspex_pool_queued": ("gauge", ("pool",), "Calls that wait for a slot."),
    "dspex_pool_in_flight": ("gauge", ("pool",), "Calls that workers run."),
    "dspex_pool_workers": ("gauge", ("pool", "state"), "Workers by state."),
    "dspex_pool_healthy": ("gauge", ("pool",), "1, or 0 while workers do not start."),
    "dspex_worker_rss_bytes": ("gauge", ("pool", "slot"), "Resident memory of workers, by their place."),
    "dspex_worker_restarts": ("counter", ("pool", "cause"), "Workers that were replaced."),
    "dspex_breaker_state": ("gauge", ("endpoint", "model"), "0 closed, 1 half open, 2 open."),
    "dspex_cache_entries": ("gauge", (), "Answers that are cached in memory."),
    "dspex_cache_bytes": ("gauge", (), "Bytes that these take."),
    "dspex_events_dropped": ("counter", (), "Events that were dropped because subscribers were too slow."),
    "dspex_subscriber_failures": ("counter", (), "How often a subscriber raised."),
}


class Metrics:
    """The metrics of one runtime.

    Args:
        bus: Whose events are counted.
        standing: Tells how things stand now, by metric and labels.
    """

    def __init__(self, bus: Bus, standing: Callable[[], dict[str, dict[Labels, float]]]) -> None:
        self._bus = bus
        self._standing = standing
        self._lock = threading.Lock()
        self._counters: dict[str, dict[Labels, float]] = {}
        self._calls: dict[tuple[str, str], CallSeries] = {}
        self._requests: dict[str, RequestSeries] = {}
        self._known: dict[str, set[str]] = {}

    # What happens

    def hear(self, event: Event) -> None:
        """Count an event."""
        with self._lock:
            if type(event) is CallFinished:
                calls = self._calls.get((event.pool, event.module))
                (calls or self._calls_of(event)).add(event)
            elif type(event) is LMRequestFinished:
                requests = self._requests.get(event.model)
                (requests or self._requests_of(event)).add(event)
            else:
                self._other(event)

    def _calls_of(self, event: CallFinished) -> CallSeries:
        pool, module = event.pool.partition("@")[0], self._bounded("module", event.module)
        return self._calls.setdefault((pool, module), CallSeries(pool, module))

    def _requests_of(self, event: LMRequestFinished) -> RequestSeries:
        model = self._bounded("model", event.model)
        return self._requests.setdefault(model, RequestSeries(model))

    def _other(self, event: Event) -> None:
        match event:
            case CacheHit():
                self._count("dspex_cache_lookups", "hit")
            case CacheMiss():
                self._count("dspex_cache_lookups", "miss")
            case BudgetRefused():
                self._count("dspex_budget_refusals", event.scope)
            case BreakerChanged():
                self._count("dspex_breaker_changes", self._bounded("model", event.model), event.state)
            case FellBack():
                self._count("dspex_fallbacks", self._bounded("model", event.model), event.code)
            case BatchFinished():
                self._count("dspex_batch_items", "ok", by=event.ok)
                self._count("dspex_batch_items", "failed", by=event.failed)
            case SessionCreated():
                self._count("dspex_sessions_created")
            case SessionEnded():
                self._count("dspex_sessions_ended", event.cause)

    def _count(self, name: str, *labels: str, by: float = 1) -> None:
        counter = self._counters.setdefault(name, {})
        counter[labels] = counter.get(labels, 0) + by

    def _bounded(self, label: str, value: str) -> str:
        known = self._known.setdefault(label, set())
        if value in known:
            return value
        if len(known) >= _TOLD_APART:
            return _OTHERS
        known.add(value)
        return value

    # How it stands

    def text(self) -> str:
        """All of them in Prometheus' text format."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry).decode()

    def collect(self) -> Iterator[Metric]:
        """As the client library asks for them."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        stands = self._standing()
        stands["dspex_events_dropped"] = {(): self._bus.dropped}
        stands["dspex_subscriber_failures"] = {(): self._bus.failed}
        counted, histograms = self._counted()
        for name, (kind, labels, text) in METRICS.items():
            if kind == "histogram":
                family: Any = HistogramMetricFamily(name, text, labels=labels)
                for values, histogram in histograms.get(name, {}).items():
                    family.add_metric(values, buckets=_cumulated(histogram), sum_value=histogram.total)
            else:
                made = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
                family = made(name, text, labels=labels)
                found = counted.get(name) or stands.get(name) or ({(): 0} if not labels else {})
                for values, number in found.items():
                    family.add_metric(values, number)
            yield family

    def _counted(self) -> tuple[dict[str, dict[Labels, float]], dict[str, dict[Labels, Histogram]]]:
        """Counters and histograms by name and labels, as they are at one moment."""
        histograms: dict[str, dict[Labels, Histogram]] = {}
        with self._lock:
            counted = {name: dict(counter) for name, counter in self._counters.items()}
            samples = [sample for calls in self._calls.values() for sample in calls.samples()]
            samples += [sample for requests in self._requests.values() for sample in requests.samples()]
        for name, labels, sample in samples:
            if isinstance(sample, Histogram):
                histograms.setdefault(name, {})[labels] = sample
            else:
                counter = counted.setdefault(name, {})
                counter[labels] = counter.get(labels, 0) + sample
        return counted, histograms


def _cumulated(histogram: Histogram) -> list[tuple[str, float]]:
    ends = (*map(str, histogram.bounds), "+Inf")
    return [(end, float(count)) for end, count in zip(ends, accumulate(histogram.counts), strict=True)]
