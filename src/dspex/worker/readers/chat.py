"""Replies to ``ChatAdapter``: a field's text stands below its header ``[[ ## field ## ]]``."""

from __future__ import annotations

import re
from collections.abc import Collection

from dspex.worker.readers.trimmed import Trimmed

_HEADER = re.compile(r"\[\[ ## (\w+) ## \]\]")
# What can still become a header.
_BEGINNING = re.compile(r"\[(\[( (#(#( (\w+( (#(#( (\](\])?)?)?)?)?)?)?)?)?)?)?)?")
# Characters of a line within which a header has to be complete: it is not searched again and again.
_LONGEST = 500


class ChatReader:
    """Gives the texts of fields as they come, as ``ChatAdapter.parse`` gives them at the end.

    A line counts as a header only from its beginning, ends of lines are those of ``str.splitlines`` and
    become ``\\n``, and of several sections of one name the first counts.

    Args:
        fields: The fields whose texts are wanted.
    """

    def __init__(self, fields: Collection[str]) -> None:
        self._fields = frozenset(fields)
        self._seen: set[str] = set()
        self._field: str | None = None
        self._text = Trimmed()
        self._begun = ""  # of a line that may be a header
        self._open = True  # whether that is not known yet
        self._in_header = False
        self._after_cr = False

    def feed(self, text: str) -> list[tuple[str, str]]:
        """The pieces that are certain once this has come: fields and texts, in order."""
        pieces: list[tuple[str, str]] = []
        if self._after_cr and text.startswith("\n"):
            text = text[1:]
        if text:
            self._after_cr = text.endswith("\r")
        for line in text.splitlines(keepends=True):
            body = line.splitlines()[0]
            self._body(body, pieces)
            if len(body) < len(line):
                self._end_line(pieces)
        return pieces

    def end(self) -> list[tuple[str, str]]:
        """The pieces that were held back."""
        pieces: list[tuple[str, str]] = []
        self._settle(pieces)
        return pieces

    def _body(self, text: str, pieces: list[tuple[str, str]]) -> None:
        if not self._open:
            self._give(text, pieces)
            return
        self._begun += text
        stripped = self._begun.lstrip()
        header = _HEADER.match(stripped)
        if header is not None:
            self._begin(header[1])
            # Counted in the line as it is, indentation included, as DSPy does.
            rest, self._begun, self._open, self._in_header = self._begun[header.end() :], "", False, True
            self._give(rest, pieces)
        elif len(self._begun) > _LONGEST or (stripped and not _BEGINNING.fullmatch(stripped)):
            self._settle(pieces)

    def _settle(self, pieces: list[tuple[str, str]]) -> None:
        """The line is no header."""
        if self._open:
            begun, self._begun, self._open = self._begun, "", False
            self._give(begun, pieces)

    def _end_line(self, pieces: list[tuple[str, str]]) -> None:
        self._settle(pieces)
        if self._in_header:
            self._text.drop()
        self._give("\n", pieces)
        self._open, self._in_header = True, False

    def _begin(self, field: str) -> None:
        wanted = field in self._fields and field not in self._seen
        self._seen.add(field)
        self._field = field if wanted else None
        self._text = Trimmed()

    def _give(self, text: str, pieces: list[tuple[str, str]]) -> None:
        if self._field is not None and (piece := self._text.take(text)):
            pieces.append((self._field, piece))
