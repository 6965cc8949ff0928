"""Calls with their spans: what is known of a question at first, and of its answer at the end."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dspex.errors import DspexError
from dspex.program.importpath import name_of
from dspex.runtime.question import Question
from dspex.telemetry.otel import Tracing, code_of
from dspex.types import Usage

if TYPE_CHECKING:
    from dspex.pool.work import Done
    from dspex.runtime.call import Prepared
    from dspex.telemetry.spans import CallSpans


async def traced(
    tracing: Tracing, pool: str, prepared: Prepared, send: Callable[[Prepared], Awaitable[Done]]
) -> Done:
    """Send a question, with spans when somebody wants them."""
    trace = _begun(tracing, pool, prepared.question, {"dspex.program": prepared.fingerprint.hex()[:12]})
    if trace is None:
        return await send(prepared)
    try:
        done = await send(replace(prepared, trace=trace))
    except BaseException as error:
        trace.end(code_of(error), _known_of(error))
        raise
    usage = sum((request.usage for request in done.requests), Usage())
    trace.end(
        None,
        {
            "dspex.attempts": done.attempts,
            "dspex.cached": done.cached or None,
            "dspex.lm.requests": len(done.requests),
            "dspex.usage.input_tokens": usage.prompt_tokens,
            "dspex.usage.output_tokens": usage.completion_tokens,
        },
    )
    return done


def refused(tracing: Tracing, pool: str, question: Question, error: DspexError) -> None:
    """A question was refused before it was sent: its span ends where it begins."""
    trace = _begun(tracing, pool, question, {})
    if trace is not None:
        trace.end(code_of(error), {})


def _begun(tracing: Tracing, pool: str, question: Question, said: dict[str, Any]) -> CallSpans | None:
    if tracing.tracer() is None:
        return None
    module = name_of(question.module)
    return tracing.call(
        question.origin,
        f"call {module}",
        {
            "dspex.request_id": question.request_id,
            "dspex.module": module,
            "dspex.pool": pool,
            "dspex.tenant": question.caller.tenant or None,
            "dspex.priority": "batch" if question.caller.batch else "interactive",
            "dspex.stage": question.stage or None,
            "gen_ai.conversation.id": question.session_id,
            **said,
        },
        # Of a later stage, when the one before it had ended.
        question.asked if question.stage <= 1 else time.monotonic(),
    )


def _known_of(error: BaseException) -> dict[str, Any]:
    """What an error says besides its code, as far as that is nobody's words."""
    details = error.details if isinstance(error, DspexError) else {}
    return {
        "dspex.lm.requests": len(details.get("requests", ())),
        "dspex.timeout.phase": details.get("phase"),
        "dspex.worker.killed": details.get("killed"),
    }
