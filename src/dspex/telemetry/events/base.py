"""What all events are."""

from __future__ import annotations

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """The base of all events; subscribe to it to get every one."""
