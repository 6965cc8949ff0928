"""Leases are taken with a turn (``dspex.session.turns``); here they are kept."""

from __future__ import annotations

from sqlalchemy import Connection, update

from dspex.session.tables import sessions


def renew(connection: Connection, owner: str, calls: list[str], until: float) -> None:
    """Keep the leases of calls that go on.

    Args:
        connection: The store's.
        owner: The runtime that has them.
        calls: The calls that they were taken for.
        until: When they end unless they are renewed again, in seconds since 1970.
    """
    connection.execute(
        update(sessions)
        .where(sessions.c.lease_owner == owner, sessions.c.lease_call.in_(calls))
        .values(lease_until=until)
    )
