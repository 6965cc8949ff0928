"""What comes of a block of code, in whichever sandbox."""

from __future__ import annotations

from typing import Any

import msgspec


class Failure(msgspec.Struct, frozen=True):
    """What a block of code has raised.

    Attributes:
        type: The name of the exception's class.
        args: Its arguments.
        message: Its text, with where it was raised.
    """

    type: str
    args: list[Any]
    message: str


class Outcome(msgspec.Struct, frozen=True):
    """What came of a block: one of these.

    Attributes:
        value: What it gave, or printed.
        final: What it submitted.
        error: What it raised.
    """

    value: Any = None
    final: dict[str, Any] | None = None
    error: Failure | None = None


class Ended(Exception):
    """The sandbox is no more, and what its code had made has gone with it.

    Attributes:
        kind: The name of the exception that says it best: ``"TimeoutError"``, ``"MemoryError"``.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{message}; it was ended, and what the code had defined is lost")
        self.kind = kind
