"""What a pool tells about itself."""

from __future__ import annotations

import msgspec

from dspex.lm.cache import CacheStats
from dspex.types import Budget


class WorkerStats(msgspec.Struct, frozen=True):
    """One worker.

    Attributes:
        number: Its number in the pool.
        pid: Its pid.
        state: ``starting``, ``ready``, ``busy`` (no slot is free), ``draining`` (it takes no more calls),
            ``stopping`` or ``dead``.
        rss: Resident memory in bytes.
        in_flight: Calls that it runs.
        done: Calls that it has ended.
    """

    number: int
    pid: int
    state: str
    rss: int
    in_flight: int
    done: int


class PoolStats(msgspec.Struct, frozen=True):
    """One pool.

    Attributes:
        workers: Its workers.
        queued: Calls that wait for a slot.
        calls: Calls that were made to this pool, refused ones included.
        counters: These calls by how they ended: ``ok``, or the code of their error. Those of a pool that
            runs nothing add up to ``calls``.
        restarts: Workers that are no more, by cause: ``deadline`` or ``cancelled`` (killed to stop a call),
            ``blocked`` (its event loop had stopped), ``crashed``, ``memory`` (killed far above ``max_rss``),
            ``calls``, ``age`` and ``rss`` (recycled), ``start`` (not ready in time), ``channel`` (what it
            sent made no sense), ``shutdown`` (a caller asked for it). Those that were not replaced are not
            counted: closed, idle, or done with their one call.
        late_replies: Answers that nobody waited for any more, those of callers' functions included.
        wanted: How many workers there should be now.
        unhealthy: Why calls are refused with ``pool_unhealthy``; None when they are not.
    """

    workers: list[WorkerStats]
    queued: int
    calls: int
    counters: dict[str, int]
    restarts: dict[str, int]
    late_replies: int = 0
    wanted: int = 0
    unhealthy: str | None = None

    @property
    def unfinished(self) -> int:
        """Calls made to this pool that have not ended yet, wherever they are."""
        return self.calls - sum(self.counters.values())


class LMStats(msgspec.Struct, frozen=True):
    """An LM whose requests have to ask: it has limits, or its provider is busy.

    Attributes:
        model: Its model.
        in_flight: Requests under way.
        waiting: Requests of running calls that wait; calls that have not begun are in ``PoolStats.queued``.
        requests: Requests of the last 60 seconds.
        tokens: Their tokens, those that are under way by their estimates.
        slowed: Whether its provider said that it is asked too much, and has not recovered yet.
        tenant: Whose limits these are; empty for all, or for calls without a tenant.
    """

    model: str
    in_flight: int
    waiting: int
    requests: int
    tokens: int
    slowed: bool
    tenant: str = ""


class BreakerStats(msgspec.Struct, frozen=True):
    """The circuit breaker of one endpoint and model.

    Attributes:
        endpoint: The address, or the provider's name.
        model: The model.
        state: ``closed`` (requests go), ``open`` (none does) or ``half_open`` (one tries).
        requests: Requests that ended in its window.
        failures: How many of them failed.
        retry_after: Seconds until a request may try; None when one may now.
    """

    endpoint: str
    model: str
    state: str
    requests: int
    failures: int
    retry_after: float | None


class BudgetStats(msgspec.Struct, frozen=True):
    """One budget of which something was spent, or may be.

    Attributes:
        scope: ``session``, ``tenant`` or ``day``.
        name: The tenant, or the session's id; empty for none.
        day: The UTC day that it holds for; None when it is for no day.
        limit: How much may be spent.
        tokens: Tokens that were.
        cost: US dollars that were.
        reserved_tokens: Tokens that requests under way are expected to cost.
        reserved_cost: The same in US dollars.
    """

    scope: str
    name: str
    day: str | None
    limit: Budget
    tokens: int
    cost: float
    reserved_tokens: int
    reserved_cost: float


class RuntimeStats(msgspec.Struct, frozen=True):
    """A runtime.

    Attributes:
        pools: Its pools by name.
        lms: The LMs whose requests have to ask.
        cache: The cache of answers.
        breakers: The circuit breakers of the endpoints that were asked.
        budgets: The budgets of sessions, tenants and days that were drawn on.
    """

    pools: dict[str, PoolStats]
    lms: list[LMStats] = []
    cache: CacheStats = CacheStats(0, 0, 0, 0)
    breakers: list[BreakerStats] = []
    budgets: list[BudgetStats] = []
