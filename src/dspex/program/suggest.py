"""The known name that a mistyped one most likely meant."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Longer than any name we know; comparing more would only cost time.
_LONGEST = 64


def nearest(name: str, known: Iterable[str], *, likeness: float = 0.7) -> str | None:
    """The known name closest to `name`, upper and lower case aside.

    Args:
        name: What somebody wrote.
        known: The names that there are.
        likeness: How alike the two have to be, from 0 to 1, by `difflib`'s measure.

    Returns:
        A known name, or None when none is that close.
    """
    by_lower = {candidate.lower(): candidate for candidate in sorted(known)}
    close = difflib.get_close_matches(name[:_LONGEST].lower(), by_lower, n=1, cutoff=likeness)
    return by_lower[close[0]] if close else None
