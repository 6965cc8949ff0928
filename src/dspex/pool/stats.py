"""What a pool tells about itself."""

from __future__ import annotations

import msgspec


class WorkerStats(msgspec.Struct, frozen=True):
    """One worker.

    Attributes:
        number: Its number in the pool.
        pid: Its pid.
        state: ``starting``, ``ready``, ``busy``, ``stopping`` or ``dead``.
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
        counters: Calls by how they ended: ``ok``, or the code of their error. ``late_replies`` counts
            answers that nobody waited for any more.
        restarts: Workers that were replaced, by cause.
    """

    workers: list[WorkerStats]
    queued: int
    counters: dict[str, int]
    restarts: dict[str, int]


class LMStats(msgspec.Struct, frozen=True):
    """An LM whose requests have to ask: it has limits, or its provider is busy.

    Attributes:
        model: Its model.
        in_flight: Requests under way.
        waiting: Requests of running calls that wait; calls that have not begun are in ``PoolStats.queued``.
        requests: Requests of the last 60 seconds.
        tokens: Their tokens, those that are under way by their estimates.
        slowed: Whether its provider said that it is asked too much, and has not recovered yet.
    """

    model: str
    in_flight: int
    waiting: int
    requests: int
    tokens: int
    slowed: bool


class RuntimeStats(msgspec.Struct, frozen=True):
    """A runtime.

    Attributes:
        pools: Its pools by name.
        lms: The LMs whose requests have to ask.
    """

    pools: dict[str, PoolStats]
    lms: list[LMStats] = []
