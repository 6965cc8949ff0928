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


class RuntimeStats(msgspec.Struct, frozen=True):
    """A runtime.

    Attributes:
        pools: Its pools by name.
    """

    pools: dict[str, PoolStats]
