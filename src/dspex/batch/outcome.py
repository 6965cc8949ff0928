"""What becomes of each item of a batch, and how far a batch is."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from dspex.errors import DspexError

R = TypeVar("R")


class Outcome(msgspec.Struct, Generic[R], frozen=True, kw_only=True):
    """What became of one item.

    Attributes:
        index: The item's place, from 0.
        response: Its response; None when it failed.
        error: Why it failed; None when it did not.
        from_journal: Whether it was read from the journal, and nothing was asked.
    """

    index: int
    response: R | None = None
    error: DspexError | None = None
    from_journal: bool = False

    @property
    def ok(self) -> bool:
        """Whether there is a response."""
        return self.error is None


class BatchProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a batch is.

    Attributes:
        done: Items that have their outcome, those of the journal included.
        ok: Those with a response.
        failed: Those with an error.
        total: How many items there are; None when nobody knows.
        recorded: Those of them whose outcome was in the journal already.
        tokens: Tokens of all responses, those of the journal included.
        cost: US dollars of all responses with a known price.
        rate: Items a second, lately; those of the journal are not counted.
        seconds_left: About how long it will take; None when nobody knows.
        at_once: How many items are asked at once now.
    """

    done: int
    ok: int
    failed: int
    total: int | None
    recorded: int
    tokens: int
    cost: float
    rate: float
    seconds_left: float | None
    at_once: int
