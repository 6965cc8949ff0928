"""Text of models and providers on a terminal, which takes some characters for commands."""

from __future__ import annotations

import sys

# All but line ends and tabs: an escape sequence clears the screen, renames the window, or types for the user.
# A carriage return alone would overwrite the line; before a line end it is not missed.
_SEEN = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t\r"},
    ord("\r"): None,
    0x7F: "\u2421",
    **dict.fromkeys(range(0x80, 0xA0), "\ufffd"),
}


def legible(text: str) -> str:
    """A text with signs in the place of control characters."""
    return text.translate(_SEEN)


def to_output(text: str) -> str:
    """The text as it is, when standard output is no terminal; legible on one."""
    return legible(text) if sys.stdout is not None and sys.stdout.isatty() else text
