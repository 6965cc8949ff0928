"""Lines of those that want to change the same thing, so that they do not all try at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

# Seconds after which one goes on although it is not its turn. What it does is safe without a line: a line
# only saves trying again. So one that is slow, or that waits in a line of its own, holds nobody up for long.
_PATIENCE = 1.0


@dataclass(eq=False)
class Place:
    """A place in a line.

    Attributes:
        key: Which line.
    """

    key: Hashable
    _turn: asyncio.Event = field(default_factory=asyncio.Event)
    _loop: asyncio.AbstractEventLoop | None = None
    _left: bool = False


class Lines:
    """Lines by key, each in the order in which they came. Lives on one loop; ``leave`` is for any thread."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, deque[Place]] = {}

    def __len__(self) -> int:
        """How many lines there are."""
        return len(self._lines)

    def place(self, key: Hashable) -> Place:
        """A place that ``wait`` puts into the line; ``leave`` has to follow."""
        return Place(key)

    async def wait(self, place: Place) -> None:
        """Wait until it is the turn of a place, but not for ever."""
        place._loop = asyncio.get_running_loop()
        if place._left:  # whoever wanted it has gone away before this began
            return
        line = self._lines.setdefault(place.key, deque())
        line.append(place)
        line[0]._turn.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await place._turn.wait()

    def leave(self, place: Place) -> None:
        """Make room for the next. Safe whatever became of ``wait``, and from any thread."""
        place._left = True
        if place._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
                place._loop.call_soon_threadsafe(self._leave, place)

    def _leave(self, place: Place) -> None:
        line = self._lines.get(place.key)
        if line is None or place not in line:
            return
        line.remove(place)
        if line:
            line[0]._turn.set()
        else:
            del self._lines[place.key]
