"""Which worker gets the next call."""

from __future__ import annotations

from collections.abc import Iterable

from dspex.pool.handle import WorkerHandle
from dspex.pool.work import Work

# How many more calls than the least loaded a worker may run and still be preferred because it has the
# program built. Building takes 1-13 ms of its time and a call about 0.5 ms (the rest is waiting for its LM).
# Measured with bench/warmth.py: with 1, workers build half as often; with 2, three calls at once share a
# core where each could have had its own, at a cost of a tenth of the calls per second.
_LEAD = 1


def choose(workers: Iterable[WorkerHandle], work: Work) -> WorkerHandle | None:
    """The worker with the fewest calls that has a free slot; one with the program built may have one more.

    Returns:
        None when no worker can take the call now.
    """
    best: WorkerHandle | None = None
    least = 0.0
    for worker in workers:
        if not worker.free:
            continue
        load: float = len(worker.in_flight)
        if work.fingerprint and worker.is_warm(work.fingerprint):
            load -= _LEAD + 0.5  # a half, so that it wins a tie
        if best is None or load < least:
            best, least = worker, load
    return best
