"""The LMs that are asked instead when a call's own does not answer."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from dspex.errors import DspexError, LMNotConfigured
from dspex.lm.profile import LM
from dspex.telemetry.bus import Bus
from dspex.telemetry.events import FellBack
from dspex.types import FallenBack, LMRequest

if TYPE_CHECKING:
    from dspex.pool.work import Done, Work
    from dspex.runtime.question import Question

_log = logging.getLogger("dspex.runtime")
#: Ends for which another LM is asked. A wrong key or a budget that is spent is no reason to.
CODES = frozenset(
    {
        *("lm_unavailable", "lm_timeout", "lm_circuit_open", "lm_rate_limited", "lm_context_window"),
        "parse_error",
    }
)
Ask = Callable[["Question", "list[Work]"], Awaitable["Done"]]


async def ask_in_turn(
    question: Question, lms: Sequence[LM], ask: Ask, bus: Bus, told: Callable[[str], None]
) -> Done:
    """Ask an LM, and those after it as long as none answers.

    Nobody else is asked once a tool ran that may not run again, or the caller has read a part of the answer.

    Args:
        question: The question.
        lms: The LMs, the call's own first.
        ask: Asks with the LM of a question, and adds what it gave to workers to a list.
        bus: Told of each change.
        told: The same in words, for who listens to the call.

    Raises:
        DspexError: What the last one ended with. ``details`` has the ``fallbacks`` before it, and the LM
            requests of all of them.
    """
    fallen: list[FallenBack] = []
    paid: list[LMRequest] = []
    attempts = 0
    for number, lm in enumerate(lms):
        works: list[Work] = []
        try:
            done = await ask(question if number == 0 else replace(question, lm=lm), works)
        except DspexError as error:
            attempts += sum(work.attempts for work in works)
            next_lm = lms[number + 1] if number + 1 < len(lms) else None
            if next_lm is None or not _may_go_on(question, error, works, is_first=number == 0):
                if fallen:
                    error.details["fallbacks"] = msgspec.to_builtins(fallen)
                    error.details["requests"] = msgspec.to_builtins([*paid, *requests_of(error)])
                raise
            paid += requests_of(error)
            fallen.append(FallenBack(lm.model, error.code, error.message))
            _log.info("%s did not answer (%s): asking %s", lm.model, error.code, next_lm.model)
            bus.emit(
                FellBack(
                    model=lm.model,
                    code=error.code,
                    next_model=next_lm.model,
                    request_id=question.request_id,
                )
            )
            told(f"{lm.model} did not answer ({error.code}), and {next_lm.model} is asked")
        else:
            return replace(
                done,
                requests=[*paid, *done.requests],
                attempts=attempts + done.attempts,
                fallbacks=tuple(fallen),
            )
    raise AssertionError("there is no LM to ask")


def _may_go_on(question: Question, error: DspexError, works: Sequence[Work], *, is_first: bool) -> bool:
    # A fallback without its key is passed over; a call whose own LM has none is told so.
    answers = error.code in CODES or (not is_first and isinstance(error, LMNotConfigured))
    left = question.left()
    nothing_ran = all(work.repeatable or not work.attempts for work in works)
    return answers and nothing_ran and (left is None or left > 0)


def requests_of(error: DspexError) -> list[LMRequest]:
    """The LM requests that a call made which has failed."""
    return msgspec.convert(error.details.get("requests", []), list[LMRequest])
