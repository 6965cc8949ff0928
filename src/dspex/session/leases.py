"""One call at a time in a session, whatever process it comes from."""

from __future__ import annotations

from sqlalchemy import Connection, exists, select, update

from dspex.session import sessions as sessions_
from dspex.session.tables import owners, sessions


def take(
    connection: Connection, tenant: str, session_id: str, owner: str, call: str, now: float, until: float
) -> bool:
    """Take the lease of a session, if nobody who lives has it.

    Args:
        connection: The store's.
        tenant: Whose session.
        session_id: The session.
        owner: The runtime that takes it.
        call: The call that it is for.
        now: Seconds since 1970.
        until: When it ends if it is not renewed.

    Returns:
        Whether it is taken.

    Raises:
        UnknownSession: There is no such session.
        SessionExpired: There was one.
    """
    key = sessions_.touch(connection, tenant, session_id, now).key
    lost = ~exists(select(owners.c.id).where(owners.c.id == sessions.c.lease_owner))
    taken = connection.execute(
        update(sessions)
        .where(
            sessions.c.key == key,
            sessions.c.lease_owner.is_(None) | (sessions.c.lease_until <= now) | lost,
        )
        .values(lease_owner=owner, lease_call=call, lease_until=until)
    )
    return taken.rowcount == 1


def renew(connection: Connection, owner: str, calls: list[str], until: float) -> None:
    """Keep the leases of calls that go on."""
    connection.execute(
        update(sessions)
        .where(sessions.c.lease_owner == owner, sessions.c.lease_call.in_(calls))
        .values(lease_until=until)
    )


def give_back(connection: Connection, tenant: str, session_id: str, owner: str, call: str) -> None:
    """Let go of a lease; one that somebody else has by now stays his."""
    connection.execute(
        update(sessions)
        .where(
            sessions.c.tenant == tenant,
            sessions.c.id == session_id,
            sessions.c.lease_owner == owner,
            sessions.c.lease_call == call,
        )
        .values(lease_owner=None, lease_call=None, lease_until=None)
    )
