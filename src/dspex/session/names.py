"""Ids and names that callers choose: what a text column can hold, and what a person can read."""

from __future__ import annotations

from dspex.errors import InvalidInput

_LONGEST = 200


def check(what: str, name: object) -> str:
    """The name, if it can be one.

    Args:
        what: What it names, for messages (``"a session's id"``).
        name: The name.

    Raises:
        InvalidInput: It is no text of 1 to 200 characters, or holds U+0000 or half of a surrogate pair.
    """
    if not isinstance(name, str):
        raise InvalidInput(f"{what} is text, not {type(name).__name__}")
    if not 0 < len(name) <= _LONGEST:
        raise InvalidInput(f"{what} has 1 to {_LONGEST} characters, not {len(name)}")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"{what} has half of a surrogate pair, which cannot be stored") from None
    if "\0" in name:
        raise InvalidInput(f"{what} has U+0000, which cannot be stored")
    return name


def storable(text: str) -> str:
    """A text of somebody else's, without what a text column cannot hold."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
