"""A session's programs."""

from __future__ import annotations

from dspex.adapter.session.base import Base


class Programs(Base):
    """The part of a session that has to do with programs."""
