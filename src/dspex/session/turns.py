"""The turns of a session: opened before a call is sent, closed when it has ended, and read as its history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, and_, case, delete, exists, func, insert, or_, select, update

from dspex.errors import InvalidInput
from dspex.session.find import find
from dspex.session.records import Insights, Turn
from dspex.session.tables import owners, sessions, turns
from dspex.types import Usage
from dspex.wire.values import decode


@dataclass(frozen=True, slots=True)
class Opening:
    """A turn that is to be opened.

    Attributes:
        tenant: Whose session.
        session_id: The session.
        owner: The runtime that runs it.
        request_id: The call's name.
        program: The stored program; None for a module.
        version: Its version.
        module: The module.
        inputs: Its inputs, encoded; None when they are too large to be kept.
        shape: Their shapes, encoded.
        now: Seconds since 1970.
        until: When the call will have ended, at the latest; None is not known.
        lease: Until when the session's lease is to be had, for a call that reads the history; None for one
            that does not.
        recent: How many turns of the history to give.
    """

    tenant: str
    session_id: str
    owner: str
    request_id: str
    program: str | None
    version: int | None
    module: str
    inputs: bytes | None
    shape: bytes
    now: float
    until: float | None
    lease: float | None = None
    recent: int = 0


class Past(NamedTuple):
    """A turn of the history.

    Attributes:
        inputs: Its encoded inputs.
        outputs: Its encoded outputs.
    """

    inputs: bytes
    outputs: bytes


class Opened(NamedTuple):
    """A turn that is open.

    Attributes:
        session: The session's key.
        number: The turn's number.
        record: What the session keeps of turns.
        lm: The session's LM, as it is stored.
        history: The answered turns before it, the latest first.
    """

    session: int
    number: int
    record: str
    lm: bytes | None
    history: list[Past]


def open_turn(connection: Connection, opening: Opening) -> Opened | None:
    """Open a turn: one statement looks after its session, has it live on and counts the turn.

    Returns:
        The turn; None when another call has the lease.

    Raises:
        UnknownSession: There is no such session.
        SessionExpired: There was one.
    """
    now, ends = opening.now, sessions.c.ttl + opening.now
    if opening.until is not None:
        ends = case((ends < opening.until, opening.until), else_=ends)
    values: dict[str, Any] = {"turns": sessions.c.turns + 1, "used": now, "expires": ends}
    wanted = [
        sessions.c.tenant == opening.tenant,
        sessions.c.id == opening.session_id,
        sessions.c.ended.is_(False),
        or_(sessions.c.expires.is_(None), sessions.c.expires > now),
    ]
    if opening.lease is not None:
        lost = ~exists(select(owners.c.id).where(owners.c.id == sessions.c.lease_owner))
        wanted.append(or_(sessions.c.lease_owner.is_(None), sessions.c.lease_until <= now, lost))
        values |= {
            "lease_owner": opening.owner,
            "lease_call": opening.request_id,
            "lease_until": opening.lease,
        }
    row = connection.execute(
        update(sessions)
        .where(*wanted)
        .values(**values)
        .returning(sessions.c.key, sessions.c.turns, sessions.c.record, sessions.c.lm)
    ).one_or_none()
    if row is None:
        find(connection, opening.tenant, opening.session_id, now)  # which says that there is none
        return None
    if row.record != "none":
        kept = opening.inputs is not None and row.record == "all"
        connection.execute(
            insert(turns),
            {
                "session": row.key,
                "number": row.turns,
                "owner": opening.owner,
                "status": "started",
                "request_id": opening.request_id,
                "program": opening.program,
                "version": opening.version,
                "module": opening.module,
                "recorded": "all" if kept else "shape",
                "inputs": opening.inputs if kept else opening.shape,
                "started": now,
            },
        )
    history = _recent(connection, row.key, opening.recent) if opening.recent else []
    return Opened(row.key, row.turns, row.record, row.lm, history)


def _recent(connection: Connection, session: int, most: int) -> list[Past]:
    rows = connection.execute(
        select(turns.c.inputs, turns.c.outputs)
        .where(turns.c.session == session, turns.c.status == "ok", turns.c.recorded == "all")
        .order_by(turns.c.number.desc())
        .limit(most)
    )
    return [Past(row.inputs, row.outputs) for row in rows]


@dataclass(frozen=True, slots=True)
class Closing:
    """How a turn has ended.

    Attributes:
        opened: The turn.
        request_id: The call's name.
        owner: The runtime that ran it.
        status: ``ok``, ``failed`` or ``cancelled``.
        now: Seconds since 1970.
        seconds: How long it took.
        outputs: Its outputs, encoded; None when they are too large to be kept, or there are none.
        shape: Their shapes, encoded; None when there are none.
        model: The model that answered.
        usage: Tokens of all LM requests.
        cost: US dollars; None when the price is not known.
        asked: Whether an LM was asked at all.
        attempts: How many workers it was given to.
        error_code: The code of its error.
        error_message: What that says.
        leased: Whether it has the session's lease, which it gives back.
    """

    opened: Opened
    request_id: str
    owner: str
    status: str
    now: float
    seconds: float
    outputs: bytes | None = None
    shape: bytes | None = None
    model: str | None = None
    usage: Usage = Usage()  # noqa: RUF009 (it is frozen)
    cost: float | None = None
    asked: bool = False
    attempts: int = 0
    error_code: str | None = None
    error_message: str | None = None
    leased: bool = False


def close_turn(connection: Connection, closing: Closing) -> bool:
    """Close a turn, and count it.

    Returns:
        Whether it was there to be closed.
    """
    opened = closing.opened
    here = opened.record == "none" or _closed(connection, closing)
    values: dict[str, Any] = {}
    if here:
        ok, priced = closing.status == "ok", closing.cost is not None or not closing.asked
        values = {
            "used": closing.now,
            "expires": sessions.c.ttl + closing.now,
            "answered": sessions.c.answered + int(ok),
            "failed": sessions.c.failed + int(not ok),
            "prompt_tokens": sessions.c.prompt_tokens + closing.usage.prompt_tokens,
            "completion_tokens": sessions.c.completion_tokens + closing.usage.completion_tokens,
            "cost": sessions.c.cost + (closing.cost or 0.0),
            "unpriced": sessions.c.unpriced + int(not priced),
            "seconds": sessions.c.seconds + closing.seconds,
        }
    if closing.leased:
        mine = and_(sessions.c.lease_owner == closing.owner, sessions.c.lease_call == closing.request_id)
        for name in ("lease_owner", "lease_call", "lease_until"):
            values[name] = case((mine, None), else_=sessions.c[name])
    if not values:
        return False
    changed = connection.execute(
        update(sessions).where(sessions.c.key == opened.session, sessions.c.ended.is_(False)).values(**values)
    )
    return here and changed.rowcount == 1


def _closed(connection: Connection, closing: Closing) -> bool:
    whole = closing.opened.record == "all" and closing.outputs is not None
    values: dict[str, Any] = {
        "status": closing.status,
        "outputs": closing.outputs if whole else closing.shape,
        "model": closing.model,
        "prompt_tokens": closing.usage.prompt_tokens,
        "completion_tokens": closing.usage.completion_tokens,
        "cost": closing.cost,
        "attempts": closing.attempts,
        "error_code": closing.error_code,
        "error_message": closing.error_message,
        "seconds": closing.seconds,
    }
    if closing.shape is not None and not whole:
        values["recorded"] = "shape"
    changed = connection.execute(
        update(turns)
        .where(
            turns.c.session == closing.opened.session,
            turns.c.number == closing.opened.number,
            turns.c.request_id == closing.request_id,
        )
        .values(**values)
    )
    return changed.rowcount == 1


# Looking back


def listed(
    connection: Connection, tenant: str, session_id: str, now: float, limit: int | None, before: int | None
) -> list[Turn]:
    """The turns of a session in order: the last ones, or those before a number.

    Raises:
        UnknownSession: There is no such session.
        SessionExpired: There was one.
    """
    key = find(connection, tenant, session_id, now).key
    wanted = select(turns).where(turns.c.session == key)
    if before is not None:
        wanted = wanted.where(turns.c.number < before)
    rows = connection.execute(wanted.order_by(turns.c.number.desc()).limit(limit)).all()
    living = set(connection.execute(select(owners.c.id)).scalars())
    return [_turn(row, living) for row in reversed(rows)]


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
    key = find(connection, tenant, session_id, now).key
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
