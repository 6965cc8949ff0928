"""The versions of a program that is held in memory."""

from __future__ import annotations

import threading
from typing import Generic, NamedTuple, TypeVar

from dspex.errors import InvalidOption

T = TypeVar("T")
# What a version holds may have megabytes.
_KEPT = 8


class Version(NamedTuple, Generic[T]):
    """One version.

    Attributes:
        number: Its number, from 1.
        held: What it is.
    """

    number: int
    held: T


class Versions(Generic[T]):
    """The last eight versions. Used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Replaced as a whole, never changed: who reads it has one version.
        self._kept: tuple[Version[T], ...] = ()
        self._made = 0

    @property
    def current(self) -> Version[T]:
        """The one that a call made now runs with."""
        return self._kept[-1]

    def add(self, held: T) -> int:
        """Have another one from now on.

        Returns:
            Its number.
        """
        with self._lock:
            self._made += 1
            self._kept = (*self._kept, Version(self._made, held))[-_KEPT:]
            return self._made

    def back(self) -> int:
        """Go back to the one before.

        Returns:
            Its number.

        Raises:
            InvalidOption: There is none.
        """
        with self._lock:
            if len(self._kept) < 2:
                raise InvalidOption(f"there is no version before {self.current.number} to go back to")
            self._kept = self._kept[:-1]
            return self.current.number
