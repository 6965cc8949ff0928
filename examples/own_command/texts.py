"""A command that workers answer. It computes, so it is best done in another process than the caller's."""

from __future__ import annotations

from collections import Counter

import dspex


@dspex.command("texts.frequent")
def frequent(text: str, count: int = 5) -> list[tuple[str, int]]:
    """The most frequent long words of a text."""
    words = [word.strip(".,;:!?").lower() for word in text.split()]
    print(f"counting {len(words)} words")
    return Counter(word for word in words if len(word) > 4).most_common(count)
