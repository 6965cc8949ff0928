"""How a runtime stands, as its metrics tell it."""

from __future__ import annotations

from collections import Counter

from dspex.pool.stats import RuntimeStats
from dspex.telemetry.prometheus import METRICS

_BREAKER = {"closed": 0, "half_open": 1, "open": 2}
# Breakers that are told of, those that are not closed first: callers may bring any number of addresses.
_BREAKERS = 200


def standing(stats: RuntimeStats) -> dict[str, dict[tuple[str, ...], float]]:
    """What the runtime tells of itself, by metric and labels; the pools of tenants count with their own."""
    found: dict[str, Counter[tuple[str, ...]]] = {name: Counter() for name in METRICS}
    for shown, pool in stats.pools.items():
        name = shown.partition("@")[0]
        found["dspex_pool_queued"][(name,)] += pool.queued
        found["dspex_pool_in_flight"][(name,)] += sum(worker.in_flight for worker in pool.workers)
        found["dspex_pool_healthy"][(name,)] += 0
        if pool.unhealthy is None and shown == name:
            found["dspex_pool_healthy"][(name,)] = 1
        for code, count in pool.counters.items():
            found["dspex_pool_calls"][(name, code)] += count
        for cause, count in pool.restarts.items():
            found["dspex_worker_restarts"][(name, cause)] += count
        for slot, worker in enumerate(sorted(pool.workers, key=lambda one: one.number)):
            found["dspex_pool_workers"][(name, worker.state)] += 1
            found["dspex_worker_rss_bytes"][(name, str(slot))] += worker.rss
    for breaker in sorted(stats.breakers, key=lambda one: -_BREAKER[one.state])[:_BREAKERS]:
        labels = (breaker.endpoint, breaker.model)  # of several, with numbers of their own, the worst
        states = found["dspex_breaker_state"]
        states[labels] = max(states[labels], _BREAKER[breaker.state])
    found["dspex_cache_entries"][()] = stats.cache.entries
    found["dspex_cache_bytes"][()] = stats.cache.bytes
    return {name: dict(counter) for name, counter in found.items()}
