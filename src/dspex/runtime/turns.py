"""A call in a session: its turn is opened before it is sent, and closed when it has ended."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from dspex.errors import DspexError
from dspex.lm.profile import LM
from dspex.program import forms, prompt
from dspex.program.fieldtypes import HISTORY
from dspex.program.importpath import name_of
from dspex.program.signature import Signature
from dspex.runtime import budgets, history
from dspex.runtime.core import Core
from dspex.runtime.question import DEFAULT_SIGNATURE, PaidSession, Question
from dspex.runtime.stages import Ran
from dspex.runtime.steps import Find, OnLoop, Steps
from dspex.session import shapes
from dspex.session.names import storable
from dspex.types import LMReference, LMRequest, Usage

if TYPE_CHECKING:
    from dspex.runtime.route import Found
    from dspex.session.turns import Closing, Opened, Opening

Asked = Callable[[Question, "LM | str | None"], Steps[Ran]]
_LONGEST_MESSAGE = 2000
# Seconds that a turn's end may come after its deadline.
_GRACE = 60.0


@dataclass(frozen=True, slots=True)
class InSession:
    """Where a call belongs.

    Attributes:
        tenant: The tenant; empty for none.
        session_id: The session.
        program_id: The stored program that is run; None for a module.
        version: Its version.
        default: The LM when neither the call nor the session names one.
    """

    tenant: str
    session_id: str
    program_id: str | None = None
    version: int | None = None
    default: LM | str | None = None


def in_session(core: Core, place: InSession, question: Question, asked: Asked) -> Steps[Ran]:
    """Run a call as a turn of its session.

    Args:
        core: The runtime's core, whose store has the session.
        place: Where the call belongs.
        question: What is asked. Its signature is that of the program: a history among its inputs that the
            caller does not give is that of the session. Its LM is the one that the call names.
        asked: Runs it; told the question with its history, and the LM of what names none.

    Raises:
        UnknownSession: There is none.
        SessionExpired: There was one.
        StoreError: The turn could not be opened; no LM was asked.
        DspexError: Whatever the call ended with.
    """
    question = replace(question, session_id=place.session_id)
    try:
        signature = yield from _signature(question)
        turn = _Turn(core, place, question, signature)
        ended, closed = turn.failed(asyncio.CancelledError()), False
        try:
            try:
                opened: Opened = yield OnLoop(turn.open)
                question = replace((yield from turn.with_history(opened)), session=turn.session(opened))
                ran: Ran = yield from asked(question, turn.default(opened))
                ended = turn.answered(ran)
            except GeneratorExit:
                raise
            except BaseException as error:
                ended = turn.failed(error)
                with contextlib.suppress(Exception):  # the call's own error is the one to tell
                    yield OnLoop(partial(core.turns.close, question.request_id, ended))
                    closed = True
                raise
            recorded: bool = yield OnLoop(partial(core.turns.close, question.request_id, ended))
            closed = True
        finally:
            if not closed:  # Ctrl-C may come between any two steps, and before the loop has begun one
                core.turns.leave(question.request_id, ended)
    except DspexError as error:
        raise error.for_request(question.request_id)  # noqa: B904 (it is the same error)
    return replace(ran, recorded=recorded)


def _signature(question: Question) -> Steps[Signature | None]:
    """The signature of what is asked; None of a program of the user's own."""
    if question.path() is not None:
        return None
    wanted = DEFAULT_SIGNATURE if question.signature is None else question.signature
    if not forms.is_path(wanted):
        return forms.read(wanted).signature
    found: Found = yield Find(question)
    return found.declared


class _Turn:
    """One call on its way through its session."""

    def __init__(self, core: Core, place: InSession, question: Question, signature: Signature | None) -> None:
        self._core = core
        self._place = place
        self._question = question
        self._signature = signature
        inputs = _inputs(question, signature)
        largest = core.settings.max_turn
        self._inputs, self._shape = shapes.encoded(inputs, largest), shapes.encoded_shape(inputs)
        self._history = history.wanted(question, signature)

    async def open(self) -> Opened:
        await self._core.sessions.begin()
        question = self._question
        return await self._core.turns.open(self._opening, question.deadline, question.asked)

    def _opening(self) -> Opening:
        from dspex.session.turns import Opening

        place, question, core = self._place, self._question, self._core
        left = question.left()
        return Opening(
            place.tenant,
            place.session_id,
            core.sessions.owner,
            question.request_id,
            place.program_id,
            place.version,
            name_of(question.module),
            self._inputs,
            self._shape,
            now := time.time(),
            None if left is None else now + max(left, 0.0) + _GRACE,
            None if self._history is None else core.sessions.lease_end(),
            0 if self._history is None else core.settings.history_turns,
        )

    def default(self, opened: Opened) -> LM | str | None:
        """The LM of what names none."""
        if opened.lm is None or self._question.lm is not None:
            return self._place.default
        return self._core.models.references.found(msgspec.msgpack.decode(opened.lm, type=LMReference))

    def session(self, opened: Opened) -> PaidSession:
        """The session as a call is paid from it."""
        budget = budgets.decoded(opened.budget)
        return PaidSession(self._place.session_id, opened.session, opened.created, budget, opened.spent)

    def with_history(self, opened: Opened) -> Steps[Question]:
        """The question with the session's history, if it wants one."""
        if self._history is None or self._signature is None:
            return self._question
        entries = yield from history.told(self._core, opened, self._signature)
        return replace(self._question, inputs={**(self._question.inputs or {}), self._history: entries})

    # Its end

    def answered(self, ran: Ran) -> Callable[[Opened], Closing]:
        """How it is closed when it was answered."""
        outputs = ran.outputs
        encoded, shape = shapes.encoded(outputs, self._core.settings.max_turn), shapes.encoded_shape(outputs)
        told = {
            "outputs": encoded,
            "shape": shape,
            "model": ran.model,
            "usage": ran.usage,
            "cost": ran.cost,
            "asked": bool(ran.requests),
            "attempts": ran.attempts,
        }
        return lambda opened: self._closing(opened, "ok", told)

    def failed(self, error: BaseException) -> Callable[[Opened], Closing]:
        """How it is closed when it was not."""
        if not isinstance(error, DspexError):
            return lambda opened: self._closing(opened, "cancelled", {})
        requests = msgspec.convert(error.details.get("requests", []), list[LMRequest])
        costs = [request.cost for request in requests if request.status == "ok"]
        known = [cost for cost in costs if cost is not None]
        told = {
            "usage": sum((request.usage for request in requests), Usage()),
            "cost": sum(known) if costs and len(known) == len(costs) else None,
            "asked": bool(costs),
            "attempts": error.details.get("attempts", 1),
            "error_code": error.code,
            "error_message": storable(error.message[:_LONGEST_MESSAGE]),
        }
        return lambda opened: self._closing(opened, "failed", told)

    def _closing(self, opened: Opened, status: str, told: Mapping[str, Any]) -> Closing:
        from dspex.session.turns import Closing

        question = self._question
        seconds = time.monotonic() - question.asked
        return Closing(
            opened, question.request_id, self._core.sessions.owner, status, time.time(), seconds, **told
        )


def _inputs(question: Question, signature: Signature | None) -> dict[str, Any]:
    """The inputs as they are kept: by name, and without a history, which is kept already."""
    if signature is None:
        given = dict(prompt.mapping(question.inputs))
        return given if question.prompt is None else {**given, "prompt": question.prompt}
    filled, inputs = prompt.fill(signature, question.prompt, question.inputs)
    histories = {field.name for field in filled.inputs if field.type == HISTORY}
    return {name: value for name, value in inputs.items() if name not in histories}
