"""The page of the events, for ``generate.py``."""

from __future__ import annotations

from render import described, page, struct

import dspex
from dspex.telemetry.events import base, calls, lms, sessions, workers

# In the order in which they are written.
KINDS = [
    kind
    for subject in (base, calls, lms, sessions, workers)
    for kind in vars(subject).values()
    if isinstance(kind, type) and kind.__module__ == subject.__name__
]


def whole() -> str:
    """Every event with its attributes."""
    return page(
        "Events",
        "How to subscribe is told in [Events](../how-to/events.md). All import from "
        "`dspex`. A subscription to `Event`, `CallEvent`, `CacheEvent`, `WorkerEvent`, `PoolEvent` or "
        "`SessionEvent` hears every one of that kind.",
        described("runtime.on", dspex.Runtime.on),
        *[f"## {kind.__name__}\n\n{struct(kind)}" for kind in KINDS],
    )
