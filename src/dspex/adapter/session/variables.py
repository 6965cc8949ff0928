"""A session's variables."""

from __future__ import annotations

from dspex.adapter.session.base import Base


class Variables(Base):
    """The part of a session that has to do with variables."""
