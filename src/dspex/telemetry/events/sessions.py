"""What becomes of sessions."""

from __future__ import annotations

from dspex.telemetry.events.base import Event


class SessionEvent(Event, frozen=True, kw_only=True):
    """Something has become of sessions.

    Attributes:
        tenant: Whose they are; empty when nobody said.
    """

    tenant: str


class SessionCreated(SessionEvent, frozen=True, kw_only=True):
    """A session was made.

    Attributes:
        session_id: Its id.
        anonymous: Whether it was made for a program that was given no session.
    """

    session_id: str
    anonymous: bool


class SessionEnded(SessionEvent, frozen=True, kw_only=True):
    """A session is no more.

    Attributes:
        session_id: Its id.
        cause: ``expired`` or ``deleted``.
    """

    session_id: str
    cause: str


class SessionQuotaNear(SessionEvent, frozen=True, kw_only=True):
    """Four fifths of the sessions that there may be are there.

    Attributes:
        kind: Which quota: ``tenant`` or ``all``.
        sessions: How many there are.
        limit: How many there may be.
    """

    kind: str
    sessions: int
    limit: int
