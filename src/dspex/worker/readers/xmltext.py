"""Replies to ``XMLAdapter``: a field's text stands in the element of its name."""

from __future__ import annotations

from collections.abc import Collection
from xml.parsers import expat

from dspex.worker.readers.trimmed import Trimmed


class XMLReader:
    """Gives the texts of fields as they come, as ``XMLAdapter.parse`` gives them at the end.

    What comes after an element inside a text, and after what is no XML, is not told.

    Args:
        fields: The fields whose texts are wanted.
    """

    def __init__(self, fields: Collection[str]) -> None:
        self._fields = frozenset(fields)
        self._seen: set[str] = set()
        self._depth = 0
        self._field: str | None = None
        self._text = Trimmed()
        self._pieces: list[tuple[str, str]] = []
        self._broken = False
        self._parser = expat.ParserCreate()
        # Later releases of expat wait with what came for more of it; here each piece counts.
        if hasattr(self._parser, "SetReparseDeferralEnabled"):
            self._parser.SetReparseDeferralEnabled(False)
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        # Nothing that a reply declares is expanded.
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parse("<dspy_root>")

    def feed(self, text: str) -> list[tuple[str, str]]:
        """The pieces that are certain once this has come: fields and texts, in order."""
        self._parse(text)
        pieces, self._pieces = self._pieces, []
        return pieces

    def end(self) -> list[tuple[str, str]]:
        """Nothing is held back."""
        return []

    def _parse(self, text: str) -> None:
        if self._broken:
            return
        try:
            self._parser.Parse(text, False)
        except (expat.ExpatError, UnicodeEncodeError):
            self._broken = True

    def _start(self, name: str, _attributes: dict[str, str]) -> None:
        self._depth += 1
        self._field = None  # of an element inside a text as well
        if self._depth == 2:
            if name in self._fields and name not in self._seen:
                self._field = name
                self._text = Trimmed()
            self._seen.add(name)

    def _end(self, _name: str) -> None:
        self._depth -= 1
        self._field = None

    def _characters(self, text: str) -> None:
        if self._field is not None and (piece := self._text.take(text)):
            self._pieces.append((self._field, piece))

    def _refuse(self, *_: object) -> None:
        self._broken = True
        self._field = None
