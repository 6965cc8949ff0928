"""How many bytes a value takes at least once it is written down, found without writing it down.

One object may be in a value many times, and is written as often: forty lists, each ten times in the next, are
four hundred references in memory and 10^40 on the wire. So each object is measured once.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from dspex.wire.codes import MAX_DEPTH, Refusal

#: Containers that are written before all of the value is measured: fewer take no time, whatever is in them.
FEW = 20_000
_CONTAINERS = frozenset({list, tuple, set, frozenset})
_TEXTS = frozenset({str, bytes})


class TooLarge(Refusal):
    """All of the value is too large.

    Attributes:
        size: Bytes that it takes at least.
        limit: Bytes that it may take.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"it takes at least {size:,} bytes", whole=True)
        self.size = size
        self.limit = limit


class Meter:
    """Watches what is written of one value.

    Args:
        value: All of it.
        limit: Bytes that it may take.
    """

    __slots__ = ("_containers", "_limit", "_value", "_written")

    def __init__(self, value: Any, limit: int) -> None:
        self._value = value
        self._limit = limit
        self._written = 0
        self._containers = 0

    def add(self, parts: Collection[Any]) -> None:
        """Count what is in one container, but for what is in the containers inside it.

        Raises:
            TooLarge: It is more than the value may take, or the value will be.
        """
        self._written += _least(parts)
        self._containers += 1
        if self._containers == FEW:
            self._written = max(self._written, least_size(self._value))
        if self._written > self._limit:
            raise TooLarge(self._written, self._limit)


def least_size(value: Any) -> int:
    """Bytes that a value takes at least."""
    return _measure(value, {}, 0)


def _measure(value: Any, known: dict[int, int], depth: int) -> int:
    kind = type(value)
    if kind in _TEXTS:
        return len(value) + 1
    if (kind is not dict and kind not in _CONTAINERS) or depth >= MAX_DEPTH:
        return 1
    found = known.get(id(value))
    if found is None:
        known[id(value)] = 1  # while it is measured, for one that contains itself
        parts = value.values() if kind is dict else value
        found = 1 + sum(_measure(part, known, depth + 1) for part in parts)
        known[id(value)] = found
    return found


def _least(parts: Collection[Any]) -> int:
    if _TEXTS.isdisjoint(map(type, parts)):
        return len(parts)
    return len(parts) + sum(len(part) for part in parts if type(part) in _TEXTS)
