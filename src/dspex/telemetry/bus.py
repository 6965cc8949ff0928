"""Hands events to subscribers, of whom none can disturb a call or hold up supervision."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from dspex.telemetry.events import Event

E = TypeVar("E", bound=Event)
# A function, and whether it hears now; None is always.
_Listener = tuple[Callable[[Any], None], Callable[[], bool] | None]
_log = logging.getLogger("dspex.telemetry")
#: Events that wait for slow subscribers; what comes on top is dropped.
ROOM = 1000
_LAST_WORDS = 1.0  # seconds that closing waits for subscribers


class Bus:
    """Subscribers by the type of event that they asked for.

    They are called on a thread of the bus's own, one event after the other, in the order in which things
    happened. It starts with the first event that somebody asked for, so that a runtime without subscribers
    has none, and one that is made before a fork is whole after it.

    Attributes:
        failed: How many times a subscriber raised; that is logged and has no other consequence.
        dropped: Events that were dropped because subscribers were too slow.
    """

    def __init__(self) -> None:
        self.failed = 0
        self.dropped = 0
        self._subscribers: list[tuple[type[Event], Callable[[Any], None]]] = []
        self._listeners: dict[type[Event], list[_Listener]] = {}
        self._waiting: deque[Event] = deque()
        # Reentrant: a signal handler may emit or subscribe while its thread is in here.
        self._something = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None
        self._ended = False

    def on(self, kind: type[E], function: Callable[[E], None]) -> Callable[[], None]:
        """Have ``function`` called with each event of a kind, on the thread of events.

        Returns:
            A function that ends the subscription.
        """
        entry = (kind, function)
        self._subscribers.append(entry)
        return lambda: self._subscribers.remove(entry) if entry in self._subscribers else None

    def listen(
        self,
        function: Callable[[Any], None],
        kinds: Iterable[type[Event]],
        when: Callable[[], bool] | None = None,
    ) -> None:
        """Have ``function`` called with events of some kinds, at once and where they happen.

        For dspex's own counters: it has to be quick. What it raises is counted as of any subscriber.

        Args:
            function: Is given each of them.
            kinds: Their exact types.
            when: Whether it would hear of one now; None is always.
        """
        for kind in kinds:
            self._listeners.setdefault(kind, []).append((function, when))

    def wants(self, kind: type[Event]) -> bool:
        """Whether anybody would hear of an event of a kind."""
        for _, when in self._listeners.get(kind, ()):
            if when is None or when():
                return True
        return self.has_subscriber(kind)

    def has_subscriber(self, kind: type[Event]) -> bool:
        """Whether a subscriber would hear of an event of a kind."""
        return bool(self._subscribers) and any(issubclass(kind, wanted) for wanted, _ in self._subscribers)

    def emit(self, event: Event) -> None:
        """Tell all who asked for it; from any thread. Never waits for them and never raises."""
        for listen, when in self._listeners.get(type(event), ()):
            try:
                if when is None or when():
                    listen(event)
            except Exception:  # noqa: BLE001 (what counts must not cost a call)
                self.failed += 1
                _log.exception("%s was not counted", type(event).__name__)
        if not self._subscribers or not any(isinstance(event, kind) for kind, _ in self._subscribers):
            return
        with self._something:
            if self._ended or len(self._waiting) >= ROOM or not self._has_thread():
                self.dropped += 1
                return
            self._waiting.append(event)
            self._something.notify()

    async def aclose(self) -> None:
        """Let subscribers hear what waits, for a second at most; from then on events are dropped."""
        with self._something:
            self._ended = True
            self._something.notify()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        # Looked at again and again, because at the interpreter's exit there are no new threads to join in.
        loop = asyncio.get_running_loop()
        end = loop.time() + _LAST_WORDS
        while thread.is_alive() and loop.time() < end:  # noqa: ASYNC110 (a thread sets no event of a loop)
            await asyncio.sleep(0.002)
        with self._something:
            self.dropped += len(self._waiting)
            self._waiting.clear()
        if self.dropped:
            _log.warning("%d events were dropped: a subscriber is too slow", self.dropped)

    def _has_thread(self) -> bool:
        if self._thread is None:
            thread = threading.Thread(target=self._serve, name="dspex-events", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter is at its end, or the system has no more threads
                return False
            self._thread = thread
        return True

    def _serve(self) -> None:
        while True:
            with self._something:
                while not self._waiting:
                    if self._ended:
                        return
                    self._something.wait()
                event = self._waiting.popleft()
            self._tell(event)

    def _tell(self, event: Event) -> None:
        for kind, function in list(self._subscribers):
            if isinstance(event, kind):
                try:
                    function(event)
                except BaseException:  # noqa: BLE001 (SystemExit too would end this thread for all others)
                    self.failed += 1
                    _log.exception("a subscriber to %s failed", type(event).__name__)
