"""Programs that are stored, as an adapter makes and runs them."""

from __future__ import annotations

from dspex.adapter.base import Base


class Programs(Base):
    """The part of an adapter that has to do with stored programs."""
