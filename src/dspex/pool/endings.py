"""The errors that a pool ends calls with, in words."""

from __future__ import annotations

import signal

from dspex.errors import (
    DspexError,
    InvalidInput,
    PoisonCall,
    PoolClosed,
    PoolSaturated,
    PoolUnhealthy,
    QueueTimeout,
    WorkerLost,
)
from dspex.pool.handle import WorkerHandle
from dspex.pool.work import Work

_NOT_AGAIN = (
    "it is not known here whether what it ran may run again: a program of yours that may says so with "
    "@dspex.module(idempotent=True), and a tool by dspex.Tool(..., idempotent=True)"
)
_TOOLS_RAN = (
    "a tool of its was called that may not be called twice: one that may is given as dspex.Tool(fn, "
    "idempotent=True)"
)
_WHY = {
    "deadline": "a call did not stop at its deadline",
    "cancelled": "a cancelled call did not stop",
    "calls": "max_calls",
    "age": "max_age",
    "rss": "max_rss",
    "idle": "it had nothing to do",
    "done": "it has run its call",
    "shutdown": "a caller asked for it",
}


def closed(pool: str, *, while_running: bool = False) -> PoolClosed:
    """The pool was closed under a call."""
    when = " while the call ran" if while_running else ""
    return PoolClosed(f"the pool {pool!r} was closed{when}")


def saturated(pool: str, queued: int, retry_after: float) -> PoolSaturated:
    """The queue is full."""
    return PoolSaturated(
        f"{queued} calls wait already in the pool {pool!r}; try again later, or raise "
        "PoolOptions(max_queue=...) or workers",
        details={"queued": queued},
        retry_after=retry_after,
    )


def waited_too_long(pool: str, work: Work, longest: float, retry_after: float) -> QueueTimeout:
    """A call was in the queue for longer than ``queue_timeout``."""
    what = f"no worker of the pool {pool!r} was free"
    if work.waits_for_permit:
        what = "the call's LM could not be asked (see Limits)"
    return QueueTimeout(
        f"{what} within {longest:g} s", details={"queue_timeout": longest}, retry_after=retry_after
    )


def not_sent(error: Exception) -> DspexError:
    """A call could not be handed to a worker."""
    if isinstance(error, DspexError):
        return error
    return InvalidInput(f"the call cannot be sent: {type(error).__name__}: {error}")


def lost(worker: WorkerHandle, work: Work, cause: str) -> WorkerLost:
    """A call's worker was lost, and the call is not run again."""
    why = _NOT_AGAIN if work.callbacks is None else _TOOLS_RAN
    again = "" if work.repeatable else f", and {why}"
    return WorkerLost(
        f"the worker was lost while it ran the call ({cause}){again}",
        details={"worker": worker.number, "pid": worker.pid, "cause": cause, "attempts": work.attempts},
    )


def poison(worker: WorkerHandle, work: Work, cause: str) -> PoisonCall:
    """A call was alone in each worker that died with it."""
    return PoisonCall(
        f"the call has ended its worker, {work.deaths_alone} times while it was alone in it ({cause}), and "
        "is not tried again. Look at what it runs: a crash in native code, memory, os._exit",
        details={"worker": worker.number, "pid": worker.pid, "cause": cause, "attempts": work.attempts},
    )


def unhealthy_again(error: PoolUnhealthy) -> PoolUnhealthy:
    """A copy for each caller, so that no two share one traceback."""
    return PoolUnhealthy(error.message, details=dict(error.details))


def cause_of_death(worker: WorkerHandle, status: int | None) -> str:
    """Why a worker is dead, for people.

    Args:
        worker: The worker.
        status: Its exit code; negative: the signal that ended it; None: unknown.
    """
    if worker.killed:
        return f"killed: {worker.reason or _why(worker)}"
    if worker.cause is not None and status == 0:
        return f"ended: {_why(worker)}"
    if status is None:
        return "it died, and nobody tells how; most likely its zygote was lost"
    if status >= 0:
        return f"it exited with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    hint = " (out of memory, or somebody's kill)" if -status == signal.SIGKILL else ""
    return f"it died of {name}{hint}"


def _why(worker: WorkerHandle) -> str:
    cause = worker.cause or ""
    return _WHY.get(cause, cause)
