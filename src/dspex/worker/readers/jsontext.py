"""Replies to ``JSONAdapter``: one JSON object, whose members are the fields."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

_BLANK = re.compile(r"[ \t\n\r]*")
_PLAIN = re.compile(r'[^"\\]+')
_SCALAR = re.compile(r"[^,\[\]{}\"]+")
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_FENCES = ("```json\n", "```json\r\n", "```\n", "```JSON\n")


class Broken(Exception):
    """It is no JSON from here on."""


class _Part(NamedTuple):
    text: str
    ended: bool
    at: int


class _String:
    """A JSON string while it comes, behind its opening quote."""

    def __init__(self) -> None:
        self._escape = ""
        self._high = 0

    def take(self, text: str, at: int) -> _Part:
        """Its characters from there on, whether its closing quote came, and where it goes on.

        Raises:
            Broken: An escape is none, or makes no character.
        """
        found: list[str] = []
        while at < len(text):
            if self._escape:
                self._escape += text[at]
                at += 1
                self._unescape(found)
                continue
            if text[at] == "\\":
                self._escape = "\\"
                at += 1
                continue
            if self._high:
                raise Broken
            if text[at] == '"':
                return _Part("".join(found), True, at + 1)
            plain = _PLAIN.match(text, at)
            assert plain is not None
            found.append(plain[0])
            at = plain.end()
        return _Part("".join(found), False, at)

    def _unescape(self, found: list[str]) -> None:
        escape = self._escape
        if escape[1] != "u":
            if self._high or escape[1] not in _ESCAPES:
                raise Broken
            found.append(_ESCAPES[escape[1]])
        elif len(escape) < 6:
            return
        else:
            try:
                code = int(escape[2:], 16)
            except ValueError:
                raise Broken from None
            if self._high:
                if not 0xDC00 <= code < 0xE000:
                    raise Broken
                found.append(chr(0x10000 + ((self._high - 0xD800) << 10) + (code - 0xDC00)))
                self._high = 0
            elif 0xD800 <= code < 0xDC00:
                self._high = code
            elif 0xDC00 <= code < 0xE000:
                raise Broken
            else:
                found.append(chr(code))
        self._escape = ""


class JSONReader:
    """Gives the texts of fields as they come, without JSON's quotes and escapes.

    Only members that are strings are told, those of the outermost object, and nothing after what is no JSON:
    what DSPy makes of a broken reply is not known before its end.

    Args:
        fields: The fields whose texts are wanted.
    """

    def __init__(self, fields: Collection[str]) -> None:
        self._fields = frozenset(fields)
        self._seen: set[str] = set()
        self._state = "start"
        self._fence = ""
        self._key: list[str] = []
        self._string = _String()
        self._field: str | None = None
        self._depth = 0

    def feed(self, text: str) -> list[tuple[str, str]]:
        """The pieces that are certain once this has come: fields and texts, in order."""
        pieces: list[tuple[str, str]] = []
        at = 0
        try:
            while at < len(text) and self._state != "over":
                at = getattr(self, f"_in_{self._state}")(text, at, pieces)
        except Broken:
            self._state = "over"
        return pieces

    def end(self) -> list[tuple[str, str]]:
        """Nothing is held back."""
        return []

    # In each state: from where it goes on

    def _in_start(self, text: str, at: int, _: list[tuple[str, str]]) -> int:
        if not self._fence:
            at = _skip_blank(text, at)
            if at == len(text):
                return at
            if text[at] == "{":
                self._state = "key_or_end"
                return at + 1
        self._fence += text[at]
        if not any(fence.startswith(self._fence) for fence in _FENCES):
            raise Broken
        if self._fence in _FENCES:
            self._fence = ""
        return at + 1

    def _in_key_or_end(self, text: str, at: int, _: list[tuple[str, str]]) -> int:
        at = _skip_blank(text, at)
        if at == len(text):
            return at
        if text[at] != '"':
            raise Broken  # or the end of the object
        self._key, self._string, self._state = [], _String(), "key"
        return at + 1

    def _in_key(self, text: str, at: int, _: list[tuple[str, str]]) -> int:
        part = self._string.take(text, at)
        self._key.append(part.text)
        if part.ended:
            self._state = "colon"
        return part.at

    def _in_colon(self, text: str, at: int, _: list[tuple[str, str]]) -> int:
        at = _skip_blank(text, at)
        if at == len(text):
            return at
        if text[at] != ":":
            raise Broken
        self._state = "value"
        return at + 1

    def _in_value(self, text: str, at: int, _: list[tuple[str, str]]) -> int:
        at = _skip_blank(text, at)
        if at == len(text):
            return at
        key = "".join(self._key)
        self._field = key if key in self._fields and key not in self._seen else None
        self._seen.add(key)
        if text[at] == '"':
            self._string, self._state = _String(), "text"
            return at + 1
        self._depth, self._state = 0, "skipped"
        return at

    def _in_text(self, text: str, at: int, pieces: list[tuple[str, str]]) -> int:
        part = self._string.take(text, at)
        if self._field is not None and part.text:
            pieces.append((self._field, part.text))
        if part.ended:
            self._state = "after"
        return part.at

    def _in_skipped(self, text: str, at: int, _: list[tuple[str, str]]) -> int:
        """A value that is no string, up to the comma or brace behind it."""
        scalar = _SCALAR.match(text, at)
        if scalar is not None:
            return scalar.end()
        match text[at]:
            case '"':
                self._string, self._state = _String(), "skipped_text"
            case "{" | "[":
                self._depth += 1
            case "}" | "]" if self._depth:
                self._depth -= 1
            case "," if self._depth:
                pass
            case _:
                self._state = "after"
                return at
        return at + 1

    def _in_skipped_text(self, text: str, at: int, _: list[tuple[str, str]]) -> int:
        part = self._string.take(text, at)
        if part.ended:
            self._state = "skipped"
        return part.at

    def _in_after(self, text: str, at: int, _: list[tuple[str, str]]) -> int:
        at = _skip_blank(text, at)
        if at == len(text):
            return at
        if text[at] != ",":
            raise Broken  # or the end of the object
        self._state = "key_or_end"
        return at + 1


def _skip_blank(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    assert found is not None
    return found.end()
