"""Hands events to subscribers, of whom none can disturb a call."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from dspex.telemetry.events import Event

E = TypeVar("E", bound=Event)
_log = logging.getLogger("dspex.telemetry")


class Bus:
    """Subscribers by the type of event that they asked for.

    Attributes:
        failed: How many times a subscriber raised; that is logged and has no other consequence.
    """

    def __init__(self) -> None:
        self.failed = 0
        self._subscribers: list[tuple[type[Event], Callable[[Any], None]]] = []

    def on(self, kind: type[E], function: Callable[[E], None]) -> Callable[[], None]:
        """Have ``function`` called with each event of a kind, on the runtime's own thread.

        Returns:
            A function that ends the subscription.
        """
        entry = (kind, function)
        self._subscribers.append(entry)
        return lambda: self._subscribers.remove(entry) if entry in self._subscribers else None

    def emit(self, event: Event) -> None:
        """Tell all who asked for it; never raises."""
        for kind, function in list(self._subscribers):
            if isinstance(event, kind):
                try:
                    function(event)
                except Exception:  # noqa: BLE001 (whatever it is, it is not the call's)
                    self.failed += 1
                    _log.exception("a subscriber to %s failed", type(event).__name__)
