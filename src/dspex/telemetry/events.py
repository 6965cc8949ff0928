"""The events: one frozen type per thing that happens."""

from __future__ import annotations

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """The base of all events; subscribe to it to get every one."""


class LocalModelProgress(Event, frozen=True, kw_only=True):
    """The embedded model is being made ready.

    Attributes:
        step: ``joining`` or ``downloading`` its weights, or ``loading`` it.
        done: Bytes so far.
        total: Bytes in all; None when unknown.
    """

    step: str
    done: int
    total: int | None
