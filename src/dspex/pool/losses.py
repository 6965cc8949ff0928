"""What becomes of a call whose worker was lost."""

from __future__ import annotations

import signal
from enum import Enum, auto

from dspex.pool.handle import WorkerHandle
from dspex.pool.work import Work

# Ends of a worker that no call of it has brought about, except for one that did not stop.
_INNOCENT = frozenset(
    {"deadline", "cancelled", "calls", "age", "rss", "idle", "closing", "shutdown", "start"}
)
# Deaths alone after which a call is to blame. With one, a storm of kills would make innocents guilty.
_GUILTY = 2


class Verdict(Enum):
    """What becomes of it."""

    OVER = auto()  # its time was up: it ends with that
    AGAIN = auto()  # it is innocent: it goes to the front of the queue
    ALONE = auto()  # it may be to blame: it runs again, with nobody else in its worker
    POISON = auto()  # it is to blame
    LOST = auto()  # it may not run again


def judge(work: Work, worker: WorkerHandle, status: int | None, *, alone: bool) -> Verdict:
    """Decide, and take note of what was decided in ``work``.

    Args:
        work: The call, which has not ended yet.
        worker: The dead worker.
        status: Its exit status; None when unknown, as when its zygote has died and taken it along.
        alone: Whether the call had it for itself.
    """
    if work.overdue:
        return Verdict.OVER
    if work.unsent:
        return Verdict.AGAIN
    if not work.repeatable:
        return Verdict.LOST
    if worker.killed and worker.cause in _INNOCENT and not worker.blocked:
        return Verdict.AGAIN
    if alone and status is not None:
        work.deaths_alone += 1
        if work.deaths_alone >= _GUILTY:
            return Verdict.POISON
    if work.reruns_left <= 0:
        return Verdict.LOST
    work.reruns_left -= 1
    if not alone and not worker.killed and _is_from_outside(work, status):
        return Verdict.AGAIN
    return Verdict.ALONE


def _is_from_outside(work: Work, status: int | None) -> bool:
    """Whether the worker most likely died of something that none of its calls has done.

    The kernel's out-of-memory killer sends SIGKILL as well, and there a call may be to blame. So that holds
    once for each call: if it was to blame, it will be there the next time, too.
    """
    if status is None:
        return True  # its zygote has died, and all of them with it
    if status != -signal.SIGKILL or work.was_shot:
        return False
    work.was_shot = True
    return True
