"""Whether a worker's event loop turns: it is knocked at, and beats."""

from __future__ import annotations

import time


class Pulse:
    """Knocks that wait for their beat. Times are monotonic seconds.

    Attributes:
        stalled: Whether it has been silent for so long that it is given no calls.
    """

    def __init__(self) -> None:
        self.stalled = False
        self._knocked: float | None = None
        self._beaten = 0.0

    def knock(self) -> bool:
        """Take note of a knock; False when an earlier one still waits, so that none has to be sent."""
        if self._knocked is not None:
            return False
        self._knocked = time.monotonic()
        return True

    def beat(self) -> None:
        """It has answered."""
        self._knocked = None
        self._beaten = time.monotonic()
        self.stalled = False

    def silent(self) -> float:
        """Seconds for which a knock has not been answered; 0.0 when the loop turns."""
        return 0.0 if self._knocked is None else time.monotonic() - self._knocked

    def has_beaten_since(self, moment: float) -> bool:
        """Whether the loop has turned since then."""
        return self._beaten >= moment

    def forgive(self) -> None:
        """Begin anew to wait for the answer to a knock: this process itself was held up."""
        if self._knocked is not None:
            self._knocked = time.monotonic()
