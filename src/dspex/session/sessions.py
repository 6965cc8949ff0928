"""Sessions: made, found again, used, listed, emptied, ended."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, case, delete, func, select, update

from dspex.errors import UnknownSession
from dspex.session import quotas
from dspex.session.find import find
from dspex.session.quotas import Near, Quotas
from dspex.session.records import SessionInfo
from dspex.session.store import insert
from dspex.session.tables import programs, sessions, turns, variables
from dspex.wire.values import decode


@dataclass(frozen=True, slots=True)
class Wanted:
    """A session as somebody wants to have it.

    Attributes:
        tenant: Whose it is; empty for none.
        id: Its id.
        anonymous: Whether it is made for a program that was given no session.
        given: The columns that were given: ``ttl``, ``record``, ``metadata``, ``lm``. Those of a session that
            is found are changed to them.
        defaults: Those that a new one has besides.
    """

    tenant: str
    id: str
    anonymous: bool
    given: dict[str, Any]
    defaults: dict[str, Any]


def new_id() -> str:
    """An id that nobody can guess: 128 random bits."""
    return secrets.token_urlsafe(16)


def make_or_find(
    connection: Connection, wanted: Wanted, limits: Quotas, now: float
) -> tuple[bool, list[Near]]:
    """Have a session: find it, or make it; of one that has expired nothing is left.

    Args:
        connection: The store's.
        wanted: The session.
        limits: How many there may be.
        now: Seconds since 1970.

    Returns:
        Whether it was made, and the quotas that come near their end by it.

    Raises:
        SessionQuota: It would be one too many.
    """
    if _used(connection, wanted, now):
        return False, []
    _bury(connection, wanted, now)
    values = {**wanted.defaults, **wanted.given}
    ttl = values["ttl"]
    made = connection.execute(
        insert(connection, sessions)
        .values(
            tenant=wanted.tenant,
            id=wanted.id,
            anonymous=wanted.anonymous,
            ended=False,
            created=now,
            used=now,
            expires=None if ttl is None else now + ttl,
            **values,
        )
        .on_conflict_do_nothing()
        .returning(sessions.c.key)
    ).scalar_one_or_none()
    if made is None:  # another process has made it at this moment
        _used(connection, wanted, now)
        return False, []
    return True, quotas.take(connection, wanted.tenant, limits)


def _used(connection: Connection, wanted: Wanted, now: float) -> bool:
    """Use a session that lives, as it is wanted from now on; False where there is none."""
    ttl = wanted.given.get("ttl", ...)
    ends = sessions.c.ttl + now if ttl is ... else None if ttl is None else now + ttl
    touched = connection.execute(
        update(sessions)
        .where(*_alive(wanted.tenant, wanted.id, now))
        .values(used=now, expires=ends, **wanted.given)
    )
    return touched.rowcount == 1


def _alive(tenant: str, session_id: str, now: float) -> tuple[Any, ...]:
    return (
        sessions.c.tenant == tenant,
        sessions.c.id == session_id,
        sessions.c.ended.is_(False),
        sessions.c.expires.is_(None) | (sessions.c.expires > now),
    )


def _bury(connection: Connection, wanted: Wanted, now: float) -> None:
    """Leave nothing of a session that has expired."""
    gone = connection.execute(
        delete(sessions)
        .where(
            sessions.c.tenant == wanted.tenant,
            sessions.c.id == wanted.id,
            sessions.c.ended | (sessions.c.expires <= now),
        )
        .returning(sessions.c.ended)
    ).scalar_one_or_none()
    if gone is False:  # not swept yet, so it still counts
        quotas.give_back(connection, [wanted.tenant])


def touch(connection: Connection, tenant: str, session_id: str, now: float) -> Row[Any]:
    """Use a session: it lives for its ``ttl`` from now on, or longer where a call that runs keeps it.

    Args:
        connection: The store's.
        tenant: Whose it is; empty for none.
        session_id: Its id.
        now: Seconds since 1970.

    Returns:
        Its row.

    Raises:
        UnknownSession: There is none.
        SessionExpired: There was one.
    """
    row = connection.execute(
        update(sessions)
        .where(*_alive(tenant, session_id, now))
        .values(used=now, expires=_later(now))
        .returning(*sessions.c)
    ).one_or_none()
    return find(connection, tenant, session_id, now) if row is None else row


def _later(now: float) -> Any:
    """The end of a session that is used now; a call that runs may have put it off further already."""
    ends = sessions.c.ttl + now
    return case((sessions.c.expires > ends, sessions.c.expires), else_=ends)


def renew(connection: Connection, ids: list[tuple[str, str]], now: float) -> None:
    """Have sessions live on, of ``(tenant, id)``, that somebody holds."""
    for tenant, session_id in ids:
        connection.execute(
            update(sessions).where(*_alive(tenant, session_id, now)).values(expires=_later(now))
        )


def renew_running(connection: Connection, owner: str, now: float) -> None:
    """Have the sessions live on in which a runtime runs calls, however long these take."""
    running = select(turns.c.session).where(turns.c.owner == owner, turns.c.status == "started")
    connection.execute(
        update(sessions)
        .where(sessions.c.key.in_(running), sessions.c.ended.is_(False))
        .values(expires=_later(now))
    )


def info(connection: Connection, tenant: str, session_id: str, now: float) -> SessionInfo:
    """What is known of a session; it does not count as a use.

    Raises:
        UnknownSession: There is none.
        SessionExpired: There was one.
    """
    row = find(connection, tenant, session_id, now)
    count = select(func.count()).select_from(programs).where(programs.c.session == row.key)
    return _info(row, connection.execute(count).scalar_one())


def listed(
    connection: Connection, tenant: str, now: float, limit: int, after: str | None
) -> list[SessionInfo]:
    """A tenant's sessions that live, those used last first.

    Args:
        connection: The store's.
        tenant: Whose; empty for none.
        now: Seconds since 1970.
        limit: The most to give.
        after: The id of the last one that was given before.

    Raises:
        UnknownSession: There is none of the id ``after``.
        SessionExpired: That one has expired.
    """
    count = (
        select(func.count())
        .select_from(programs)
        .where(programs.c.session == sessions.c.key)
        .scalar_subquery()
        .label("programs")
    )
    wanted = select(*sessions.c, count).where(
        sessions.c.tenant == tenant,
        sessions.c.ended.is_(False),
        sessions.c.expires.is_(None) | (sessions.c.expires > now),
    )
    if after is not None:
        last = find(connection, tenant, after, now)
        wanted = wanted.where(
            (sessions.c.used < last.used) | ((sessions.c.used == last.used) & (sessions.c.key < last.key))
        )
    rows = connection.execute(wanted.order_by(sessions.c.used.desc(), sessions.c.key.desc()).limit(limit))
    return [_info(row, row.programs) for row in rows]


def _info(row: Any, count: int) -> SessionInfo:
    return SessionInfo(
        id=row.id,
        tenant=row.tenant or None,
        created=row.created,
        used=row.used,
        expires=row.expires,
        ttl=row.ttl,
        record=row.record,
        metadata=decode(row.metadata),
        turns=row.turns,
        programs=count,
        anonymous=row.anonymous,
    )


def reset(connection: Connection, tenant: str, session_id: str, now: float) -> None:
    """Empty a session: its turns and variables go, its programs stay.

    Raises:
        UnknownSession: There is none.
        SessionExpired: There was one.
    """
    key = touch(connection, tenant, session_id, now).key
    for table in (turns, variables):
        connection.execute(delete(table).where(table.c.session == key))
    # Turns go on being counted up, so that none that runs is taken for a later one.
    connection.execute(
        update(sessions)
        .where(sessions.c.key == key)
        .values(answered=0, failed=0, prompt_tokens=0, completion_tokens=0, cost=0, unpriced=0, seconds=0)
    )


def end(connection: Connection, tenant: str, session_id: str) -> None:
    """Delete a session; nothing of it is left.

    Raises:
        UnknownSession: There is none.
    """
    gone = connection.execute(
        delete(sessions)
        .where(sessions.c.tenant == tenant, sessions.c.id == session_id)
        .returning(sessions.c.ended)
    ).scalar_one_or_none()
    if gone is None:
        raise UnknownSession(f"no session {session_id!r}", details={"session_id": session_id})
    if not gone:
        quotas.give_back(connection, [tenant])
