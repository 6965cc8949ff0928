"""The events: one frozen type per thing that happens."""

from __future__ import annotations

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """The base of all events; subscribe to it to get every one."""


class LocalModelProgress(Event, frozen=True, kw_only=True):
    """The embedded model is being made ready.

    Attributes:
        step: ``joining`` or ``downloading`` its weights, or ``loading`` it.
        done: Bytes so far.
        total: Bytes in all; None when unknown.
    """

    step: str
    done: int
    total: int | None


class CallEvent(Event, frozen=True, kw_only=True):
    """Something has become of a call of a module: of each stage of a program, and of each item of a batch.

    Attributes:
        request_id: The call's name.
        pool: The pool that was asked.
        module: Full name of its module.
        tenant: Whose it is; empty when nobody said.
        session_id: The session that it is a turn of; None without one.
    """

    request_id: str
    pool: str
    module: str
    tenant: str
    session_id: str | None


class CallQueued(CallEvent, frozen=True, kw_only=True):
    """A call was made and waits for a worker.

    Attributes:
        program: The first of its program's fingerprint.
    """

    program: str


class CallStarted(CallEvent, frozen=True, kw_only=True):
    """A worker has it, for the first time or again.

    Attributes:
        worker: The worker's number.
        attempt: Which worker it is, from 1.
    """

    worker: int
    attempt: int


class CallFinished(CallEvent, frozen=True, kw_only=True):
    """A call has ended; each has one end.

    Attributes:
        program: The first of its program's fingerprint; empty of a call that was refused before.
        code: ``ok``, or the code of its error.
        model: The model that answered, or that was wanted; None when nothing is known of it.
        queued: Seconds that it waited for a slot.
        run: Seconds that a worker ran it.
        lm: Seconds of its LM requests, together.
        total: Seconds from the question to its end.
        prompt_tokens: Tokens sent.
        completion_tokens: Tokens generated.
        cost: US dollars; None when a price is not known.
        attempts: How many workers it was given to.
        requests: How many LM requests it made.
        cached: Whether it was answered from the cache.
    """

    program: str
    code: str
    model: str | None
    queued: float
    run: float
    lm: float
    total: float
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    attempts: int
    requests: int
    cached: bool


class LMRequestFinished(Event, frozen=True, kw_only=True):
    """A request to a model has ended, with all its retries.

    Attributes:
        model: The model that answered, or that was asked.
        status: ``ok``, or the code of its error.
        seconds: How long it took.
        prompt_tokens: Tokens sent.
        completion_tokens: Tokens generated.
        cost: US dollars; None when the price is not known.
        retries: How often it was tried again.
        pool: The pool of the call that made it.
    """

    model: str
    status: str
    seconds: float
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    retries: int
    pool: str


class BatchStarted(Event, frozen=True, kw_only=True):
    """A batch begins.

    Attributes:
        total: How many items it has; None when nobody knows.
        recorded: How many of them its journal has already.
    """

    total: int | None
    recorded: int


class BatchFinished(Event, frozen=True, kw_only=True):
    """A batch has ended, or was left.

    Attributes:
        ok: Items that were answered.
        failed: Items that were not.
        seconds: How long it took.
    """

    ok: int
    failed: int
    seconds: float


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


class SessionEvent(Event, frozen=True, kw_only=True):
    """Something has become of sessions.

    Attributes:
        tenant: Whose they are; empty when nobody said.
    """

    tenant: str


class SessionCreated(SessionEvent, frozen=True, kw_only=True):
    """A session was made.

    Attributes:
        session_id: Its id.
        anonymous: Whether it was made for a program that was given no session.
    """

    session_id: str
    anonymous: bool


class SessionEnded(SessionEvent, frozen=True, kw_only=True):
    """A session is no more.

    Attributes:
        session_id: Its id.
        cause: ``expired`` or ``deleted``.
    """

    session_id: str
    cause: str


class SessionQuotaNear(SessionEvent, frozen=True, kw_only=True):
    """Four fifths of the sessions that there may be are there.

    Attributes:
        kind: Which quota: ``tenant`` or ``all``.
        sessions: How many there are.
        limit: How many there may be.
    """

    kind: str
    sessions: int
    limit: int


class CacheEvent(Event, frozen=True, kw_only=True):
    """Something has become of a call that may be answered from a cache.

    Attributes:
        request_id: The call's name.
    """

    request_id: str


class CacheHit(CacheEvent, frozen=True, kw_only=True):
    """It was answered from the cache.

    Attributes:
        module: Full name of its module.
    """

    module: str


class CacheMiss(CacheEvent, frozen=True, kw_only=True):
    """It was not there, and is asked.

    Attributes:
        module: Full name of its module.
    """

    module: str


class CacheStored(CacheEvent, frozen=True, kw_only=True):
    """Its answer is kept.

    Attributes:
        bytes: How large it is.
    """

    bytes: int


class BudgetRefused(Event, frozen=True, kw_only=True):
    """A call or an LM request was refused with ``budget_exceeded``.

    Attributes:
        scope: ``call``, ``session``, ``tenant`` or ``day``.
        name: Whose budget: the tenant, or the session's id; empty for none.
        unit: What it would go over: ``tokens`` or ``cost``.
        limit: How much of that may be spent.
        spent: How much was.
        reserved: What requests under way are expected to cost.
    """

    scope: str
    name: str
    unit: str
    limit: float
    spent: float
    reserved: float


class BreakerChanged(Event, frozen=True, kw_only=True):
    """The circuit breaker of an endpoint has changed its state.

    Attributes:
        endpoint: The address, or the provider's name.
        model: The model.
        state: ``closed``, ``open`` or ``half_open``.
        cause: Why, for people.
    """

    endpoint: str
    model: str
    state: str
    cause: str


class FellBack(Event, frozen=True, kw_only=True):
    """An LM did not answer a call, and the next one of its fallbacks is asked.

    Attributes:
        model: The model that did not answer.
        code: The code of its error.
        next_model: The model that is asked now.
        request_id: The call's name.
    """

    model: str
    code: str
    next_model: str
    request_id: str


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
