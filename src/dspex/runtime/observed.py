"""Calls as events: the one place where each call of a module has its end told."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dspex.errors import DspexError
from dspex.program.importpath import name_of
from dspex.runtime.fallbacks import requests_of
from dspex.runtime.question import Question
from dspex.telemetry import logs
from dspex.telemetry.bus import Bus
from dspex.telemetry.events import CallFinished, CallQueued, CallStarted, LMRequestFinished
from dspex.telemetry.otel import code_of
from dspex.types import LMRequest

if TYPE_CHECKING:
    from dspex.pool.work import Done
    from dspex.runtime.call import Prepared


async def observed(
    bus: Bus, pool: str, prepared: Prepared, send: Callable[[Prepared], Awaitable[Done]]
) -> Done:
    """Send a question, and tell that it was asked and what became of it."""
    with logs.about(prepared.request_id):
        return await (_observed(bus, pool, prepared, send) if bus.wants(CallFinished) else send(prepared))


async def _observed(
    bus: Bus, pool: str, prepared: Prepared, send: Callable[[Prepared], Awaitable[Done]]
) -> Done:
    said = _said(pool, prepared.question)
    if bus.has_subscriber(CallStarted):
        prepared = replace(prepared, said=said)
    program = prepared.fingerprint.hex()[:12]
    if bus.has_subscriber(CallQueued):
        bus.emit(CallQueued(program=program, **said))
    try:
        done = await send(prepared)
    except BaseException as error:
        bus.emit(_failed(said, program, prepared, error))
        raise
    bus.emit(
        _finished(
            said,
            program,
            prepared.question,
            "ok",
            done.requests,
            queued=done.queued,
            run=done.seconds,
            attempts=done.attempts,
            cached=done.cached,
            model=done.asked,
        )
    )
    return done


def _failed(said: dict[str, Any], program: str, prepared: Prepared, error: BaseException) -> CallFinished:
    requests = (
        requests_of(error)
        if isinstance(error, DspexError)
        else [request for work in prepared.works for request in work.requests]
    )
    queued = run = 0.0
    if prepared.works:
        last, now = prepared.works[-1], time.monotonic()
        queued, run = last.queued(), now - (last.started or now)
    return _finished(
        said,
        program,
        prepared.question,
        code_of(error),
        requests,
        queued=queued,
        run=run,
        attempts=sum(work.attempts for work in prepared.works),
    )


def refused(bus: Bus, pool: str, question: Question, error: DspexError) -> None:
    """A question was refused before it was sent."""
    if bus.wants(CallFinished):
        bus.emit(_finished(_said(pool, question), "", question, error.code, []))


def requested(bus: Bus, pool: str, request: LMRequest) -> None:
    """An LM request has ended."""
    if bus.wants(LMRequestFinished):
        bus.emit(
            LMRequestFinished(
                model=request.asked or request.model,
                status=request.status,
                seconds=request.seconds,
                prompt_tokens=request.usage.prompt_tokens,
                completion_tokens=request.usage.completion_tokens,
                cost=request.cost,
                retries=request.retries,
                pool=pool,
            )
        )


def _said(pool: str, question: Question) -> dict[str, Any]:
    return {
        "request_id": question.request_id,
        "pool": pool,
        "module": name_of(question.module),
        "tenant": question.caller.tenant,
        "session_id": question.session_id,
    }


def _finished(
    said: dict[str, Any],
    program: str,
    question: Question,
    code: str,
    requests: list[LMRequest],
    *,
    queued: float = 0.0,
    run: float = 0.0,
    attempts: int = 0,
    cached: bool = False,
    model: str | None = None,
) -> CallFinished:
    lm, prompt, completion = 0.0, 0, 0
    cost: float | None = 0.0
    answered = False
    for request in requests:  # one loop, as this is done for every call
        lm += request.seconds
        prompt += request.usage.prompt_tokens
        completion += request.usage.completion_tokens
        if request.status == "ok":
            answered = True
            cost = None if cost is None or request.cost is None else cost + request.cost
        if not cached and (request.status == "ok" or not answered):
            model = request.asked or request.model
    return CallFinished(
        **said,
        program=program,
        code=code,
        model=model,
        queued=queued,
        run=run,
        lm=lm,
        total=time.monotonic() - question.asked,
        prompt_tokens=prompt,
        completion_tokens=completion,
        cost=cost,
        attempts=attempts,
        requests=len(requests),
        cached=cached,
    )
