"""Which worker gets the next call."""

from __future__ import annotations

from collections.abc import Iterable

from dspex.pool.handle import WorkerHandle
from dspex.pool.work import Work


def choose(workers: Iterable[WorkerHandle], work: Work) -> WorkerHandle | None:
    """The worker with the fewest calls that has a free slot; of equals, one with the program built.

    Returns:
        None when no worker can take the call now.
    """
    best: WorkerHandle | None = None
    for worker in workers:
        if not worker.free:
            continue
        if (
            best is None
            or len(worker.in_flight) < len(best.in_flight)
            or (
                work.fingerprint
                and len(worker.in_flight) == len(best.in_flight)
                and not best.is_warm(work.fingerprint)
                and worker.is_warm(work.fingerprint)
            )
        ):
            best = worker
    return best
