"""What all events are."""

from __future__ import annotations

import msgspec


# They have texts and numbers only, so the garbage collector need not look at them.
class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The base of all events; subscribe to it to get every one."""
