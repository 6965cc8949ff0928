"""Sessions, as an adapter gives them."""

from __future__ import annotations

from dspex.adapter.base import Base


class Sessions(Base):
    """The part of an adapter that has to do with sessions."""
