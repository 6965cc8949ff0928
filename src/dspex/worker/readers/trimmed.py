"""A text that is stripped of white space at both ends, while it comes."""

from __future__ import annotations


class Trimmed:
    """Gives a text's pieces so that, joined, they are what ``strip()`` makes of the whole."""

    def __init__(self) -> None:
        self._begun = False
        self._held: list[str] = []

    def take(self, text: str) -> str:
        """What is certain by now, after this came; white space waits for what follows it."""
        if not self._begun:
            text = text.lstrip()
            if not text:
                return ""
            self._begun = True
        kept = text.rstrip()
        if not kept:
            if text:
                self._held.append(text)
            return ""
        piece = "".join((*self._held, kept))
        self._held = [text[len(kept) :]] if len(kept) < len(text) else []
        return piece

    def drop(self) -> None:
        """White space that has come last is none of the text, whatever follows."""
        self._held.clear()
