"""The row of a session, or why there is none."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, select

from dspex.errors import DspexError, SessionExpired, UnknownSession
from dspex.session.tables import sessions


def find(connection: Connection, tenant: str, session_id: str, now: float) -> Row[Any]:
    """The row of a session that lives.

    Args:
        connection: The store's.
        tenant: Whose it is; empty for none.
        session_id: Its id.
        now: Seconds since 1970.

    Raises:
        UnknownSession: There is none.
        SessionExpired: There was one.
    """
    row = connection.execute(
        select(sessions).where(sessions.c.tenant == tenant, sessions.c.id == session_id)
    ).one_or_none()
    if row is None:
        raise UnknownSession(
            f"no session {session_id!r}; adapter.session(...) makes one", details={"session_id": session_id}
        )
    if row.ended or (row.expires is not None and row.expires <= now):
        raise expired(session_id)
    return row


def expired(session_id: str) -> DspexError:
    """The error for a session that was not used for longer than its ``ttl``."""
    return SessionExpired(
        f"the session {session_id!r} has expired; adapter.session({session_id!r}) begins a new one",
        details={"session_id": session_id},
    )
