"""A session's turns, and talking in it."""

from __future__ import annotations

from dspex.adapter.session.base import Base


class Conversation(Base):
    """The part of a session that has to do with turns."""
