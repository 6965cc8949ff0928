"""What becomes of calls, and of batches of them."""

from __future__ import annotations

from dspex.telemetry.events.base import Event


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
        model: The model that was asked last, as its LM is named; None when none was.
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
