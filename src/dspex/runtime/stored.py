"""Stored programs made and run: what adapters and the bridge have in common."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dspex.program import document as documents
from dspex.program.document import Document, Made
from dspex.runtime.question import Question
from dspex.runtime.stages import Ran, Stages
from dspex.runtime.steps import OnLoop, Steps
from dspex.runtime.turns import InSession, in_session
from dspex.session.names import check
from dspex.session.records import ProgramInfo

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from dspex.lm.profile import LM
    from dspex.runtime.core import Core
    from dspex.session.programs import Current, Stored


def home(core: Core, tenant: str, session_id: str | None) -> Steps[str]:
    """The session that a program is to belong to: an existing one, a new one of that id, or one of its own.

    Raises:
        InvalidInput: It cannot have that id.
        SessionQuota: It would be one too many.
        StoreError: The store cannot be used.
    """
    if session_id is None:
        made: str = yield OnLoop(lambda: core.sessions.anonymous(tenant))
        return made
    check("a session's id", session_id)
    yield OnLoop(lambda: core.sessions.ensure(tenant, session_id))
    return session_id


def store(core: Core, tenant: str, session_id: str, made: Made, name: str | None) -> Steps[Current]:
    """Store a program that was checked.

    Raises:
        InvalidOption: Another program of the session has that name.
        UnknownSession: There is no such session.
        SessionExpired: There was one.
        StoreError: The store cannot be used.
    """
    if name is not None:
        check("a program's name", name)
    encoded = documents.encoded(made.document)

    async def stored() -> Current:
        await core.sessions.begin()  # it imports what is imported here
        from dspex.session import programs, sessions

        program_id, now = sessions.new_id(), time.time()

        def work(connection: Connection) -> Current:
            programs.create(connection, tenant, session_id, program_id, name, encoded, now)
            return programs.current(connection, tenant, program_id, None, now)

        return await core.sessions.write(work)

    current: Current = yield OnLoop(stored)
    core.programs.hold(current.id, made.tools)
    return current


def execute(
    core: Core,
    tenant: str,
    program_id: str,
    session_id: str | None,
    question: Question,
    default: LM | str | None,
) -> Steps[tuple[Ran, Current]]:
    """Run the current version of a program, as a turn of its session.

    Args:
        core: The runtime's core.
        tenant: Whose; empty for none.
        program_id: Its id.
        session_id: Its session, to be sure; None is whichever it is.
        question: What is asked: prompt, inputs, deadline, and the LM if the call names one.
        default: The LM of what names none.

    Raises:
        InvalidInput: That is no id.
        UnknownProgram: There is none, or it is of another session.
        SessionExpired: Its session has expired.
        DspexError: Whatever the call ended with.
    """
    check("a program's id", program_id)
    if session_id is not None:
        check("a session's id", session_id)
    found: tuple[Current, Document] = yield OnLoop(
        lambda: core.programs.current(tenant, program_id, session_id)
    )
    current, document = found
    made = core.programs.made(current.id, document)
    stages = Stages(document, made.tools, core.models.references, core.tracing)
    if current.anonymous:
        ran: Ran = yield from stages.run(question, default)
    else:
        place = InSession(tenant, current.session_id, current.id, current.version, default)
        whole = question.of_program(document.stages[-1].module, document.signature)
        ran = yield from in_session(core, place, whole, stages.run)
    return ran, current


def info_of(stored: Stored, session_id: str) -> ProgramInfo:
    """What is known of a program."""
    now = next(document for number, _, document in stored.versions if number == stored.version)
    document = documents.decoded(now)
    return ProgramInfo(
        id=stored.id,
        name=stored.name,
        session_id=session_id,
        version=stored.version,
        versions=[number for number, _, _ in stored.versions],
        created=stored.created,
        modules=[stage.module for stage in document.stages],
        signature=None if document.signature is None else document.signature.text,
    )
