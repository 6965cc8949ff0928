"""What has expired is emptied."""

from __future__ import annotations

from sqlalchemy import Connection, delete, exists, select, update

from dspex.session import quotas
from dspex.session.tables import owners, programs, sessions, turns, variables

#: Seconds for which it is told that a session has expired; after that it is unknown.
TOLD = 7 * 86400.0


def expired(connection: Connection, now: float, limit: int = 500) -> list[tuple[str, str]]:
    """Empty sessions that have expired; of each only a row is left, which tells that it has.

    Args:
        connection: The store's.
        now: Seconds since 1970.
        limit: The most in one go.

    Returns:
        The tenant and the id of each.
    """
    connection.execute(delete(sessions).where(sessions.c.ended.is_(True), sessions.c.expires <= now - TOLD))
    # A call that has no deadline may run for longer than its session is told to live; that of a runtime
    # which is gone keeps nothing.
    running = exists(
        select(turns.c.number).where(
            turns.c.session == sessions.c.key,
            turns.c.status == "started",
            turns.c.owner.in_(select(owners.c.id)),
        )
    )
    due = (
        select(sessions.c.key)
        .where(sessions.c.expires <= now, sessions.c.ended.is_(False), ~running)
        .order_by(sessions.c.expires)
        .limit(limit)
    )
    gone = connection.execute(
        update(sessions)
        .where(sessions.c.key.in_(due), sessions.c.ended.is_(False), sessions.c.expires <= now)
        .values(ended=True, lm=None, metadata=b"\x80")
        .returning(sessions.c.key, sessions.c.tenant, sessions.c.id)
    ).all()
    keys = [row.key for row in gone]
    for table in (programs, turns, variables):
        if keys:
            connection.execute(delete(table).where(table.c.session.in_(keys)))
    quotas.give_back(connection, [row.tenant for row in gone])
    return [(row.tenant, row.id) for row in gone]
