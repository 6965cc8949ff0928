"""What becomes of workers, of their pools, and of the processes that they are forked from."""

from __future__ import annotations

from dspex.telemetry.events.base import Event


class WorkerEvent(Event, frozen=True, kw_only=True):
    """Something has become of a worker.

    Attributes:
        pool: Its pool.
        worker: Its number.
        pid: Its pid.
    """

    pool: str
    worker: int
    pid: int


class WorkerStarted(WorkerEvent, frozen=True, kw_only=True):
    """A worker was forked; it is ``starting``.

    Attributes:
        cause: Why: ``size`` (it was missing from the pool's size), ``growth`` (calls waited), ``replacement``
            (one is being recycled), or ``call`` (a call has it for itself).
    """

    cause: str


class WorkerReady(WorkerEvent, frozen=True, kw_only=True):
    """A worker takes calls.

    Attributes:
        seconds: From its fork to its handshake.
    """

    seconds: float


class WorkerDraining(WorkerEvent, frozen=True, kw_only=True):
    """A worker takes no more calls and ends when those that it runs have ended.

    Attributes:
        cause: As of ``WorkerGone``.
        in_flight: How many it runs.
    """

    cause: str
    in_flight: int


class WorkerGone(WorkerEvent, frozen=True, kw_only=True):
    """A worker is dead.

    Attributes:
        cause: Why, as in ``PoolStats.restarts``.
        reason: The same for people, with the exit status or the signal.
        lost: Calls that it ran.
        planned: Whether it ended when it was asked to, with nothing lost.
    """

    cause: str
    reason: str
    lost: int
    planned: bool


class PoolEvent(Event, frozen=True, kw_only=True):
    """Something has become of a pool.

    Attributes:
        pool: Its name.
    """

    pool: str


class PoolFailed(PoolEvent, frozen=True, kw_only=True):
    """Workers do not start: calls are refused with ``pool_unhealthy``, and it is tried again.

    Attributes:
        cause: The last cause.
        failures: Starts that have failed in a row.
    """

    cause: str
    failures: int


class PoolRecovered(PoolEvent, frozen=True, kw_only=True):
    """A worker has started after all."""


class PoolResized(PoolEvent, frozen=True, kw_only=True):
    """The number of workers that is wanted has changed.

    Attributes:
        before: How many were wanted.
        wanted: How many are wanted now.
        cause: ``growth`` (calls waited) or ``idle``.
    """

    before: int
    wanted: int
    cause: str


class PoolClosing(PoolEvent, frozen=True, kw_only=True):
    """The pool takes no more calls.

    Attributes:
        unfinished: Calls that wait or run.
        drain: Whether they may end first.
    """

    unfinished: int
    drain: bool


class ZygoteStarted(Event, frozen=True, kw_only=True):
    """The process that workers are forked from is ready.

    Attributes:
        pid: Its pid.
        seconds: How long its imports took.
    """

    pid: int
    seconds: float


class ZygoteLost(Event, frozen=True, kw_only=True):
    """The process that workers are forked from is dead, and its workers with it; another is started.

    Attributes:
        pid: Its pid.
        cause: What it last said, or its exit status.
    """

    pid: int
    cause: str
