"""Looking back at a session: its turns, the last of them undone, what they came to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, func, or_, select

from dspex.errors import InvalidInput
from dspex.session import sessions
from dspex.session.find import find
from dspex.session.records import Insights, Turn
from dspex.session.tables import owners, turns
from dspex.types import Usage
from dspex.wire.values import decode

_MOST = 2**31 - 1


def listed(
    connection: Connection, tenant: str, session_id: str, now: float, limit: int | None, before: int | None
) -> list[Turn]:
    """The turns of a session in order: the last ones, or those before a number.

    Raises:
        UnknownSession: There is no such session.
        SessionExpired: There was one.
    """
    limit, before = _countable(limit), _countable(before)
    key = find(connection, tenant, session_id, now).key
    wanted = select(turns).where(turns.c.session == key)
    if before is not None:
        wanted = wanted.where(turns.c.number < before)
    rows = connection.execute(wanted.order_by(turns.c.number.desc()).limit(limit)).all()
    living = set(connection.execute(select(owners.c.id)).scalars())
    return [_turn(row, living) for row in reversed(rows)]


def _countable(number: int | None) -> int | None:
    """A number that every database can hold, and that no turn goes beyond."""
    return None if number is None else min(number, _MOST)


def _turn(row: Row[Any], living: set[str]) -> Turn:
    status = row.status
    if status == "started":
        status = "running" if row.owner in living else "interrupted"
    error = None
    if row.error_code is not None:
        error = {"code": row.error_code, "message": row.error_message or ""}
    return Turn(
        number=row.number,
        status=status,
        program_id=row.program,
        version=row.version,
        module=row.module,
        inputs=None if row.inputs is None else decode(row.inputs),
        outputs=None if row.outputs is None else decode(row.outputs),
        model=row.model,
        usage=Usage(row.prompt_tokens or 0, row.completion_tokens or 0),
        cost=row.cost,
        attempts=row.attempts or 0,
        error=error,
        started=row.started,
        seconds=row.seconds,
        request_id=row.request_id,
    )


def undo(connection: Connection, tenant: str, session_id: str, now: float) -> int | None:
    """Remove the last turn.

    Returns:
        Its number; None when there is none.

    Raises:
        InvalidInput: It runs still.
        UnknownSession: There is no such session.
        SessionExpired: There was one.
    """
    # It is a use of the session, and holds its row: of two who undo at once each removes another turn.
    key = sessions.touch(connection, tenant, session_id, now).key
    last = connection.execute(
        select(turns.c.number, turns.c.status, turns.c.owner)
        .where(turns.c.session == key)
        .order_by(turns.c.number.desc())
        .limit(1)
    ).one_or_none()
    if last is None:
        return None
    if last.status == "started" and last.owner in set(connection.execute(select(owners.c.id)).scalars()):
        raise InvalidInput(f"turn {last.number} runs still; undo it when it has ended")
    connection.execute(delete(turns).where(turns.c.session == key, turns.c.number == last.number))
    number: int = last.number
    return number


def insights(connection: Connection, tenant: str, session_id: str, now: float) -> Insights:
    """What the turns of a session came to.

    Raises:
        UnknownSession: There is no such session.
        SessionExpired: There was one.
    """
    row = find(connection, tenant, session_id, now)
    of_this = turns.c.session == row.key
    ended = connection.execute(
        select(turns.c.error_code, func.count().label("times"))
        .where(of_this, turns.c.error_code.is_not(None))
        .group_by(turns.c.error_code)
    ).all()
    living = select(owners.c.id)
    running = connection.execute(
        select(func.count()).where(of_this, turns.c.status == "started", turns.c.owner.in_(living))
    ).scalar_one()
    times = sorted(
        connection.execute(select(turns.c.seconds).where(of_this, turns.c.status == "ok")).scalars()
    )
    interrupted = connection.execute(
        select(func.count()).where(
            of_this,
            or_(
                turns.c.status == "interrupted",
                and_(turns.c.status == "started", turns.c.owner.not_in(living)),
            ),
        )
    ).scalar_one()
    return Insights(
        turns=row.answered + row.failed + running + interrupted,
        answered=row.answered,
        failed=row.failed + interrupted,
        errors={row.error_code: row.times for row in ended},
        usage=Usage(row.prompt_tokens, row.completion_tokens),
        cost=None if row.unpriced and not row.cost else row.cost,
        unpriced=row.unpriced,
        seconds=row.seconds,
        p50=_middle(times),
        slowest=times[-1] if times else None,
    )


def _middle(times: Sequence[float]) -> float | None:
    return times[(len(times) - 1) // 2] if times else None
