"""Lines of the keys in a TOML text, which the parser of the standard library does not tell."""

from __future__ import annotations

import re
import tomllib

from dspex.settings.shape import Path

_BLANK = re.compile(r"(?:\s|#[^\n]*)*")
_KEY = re.compile(r"""[ \t]*([A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')[ \t]*(\.?)""")
# Texts of several lines come first: they begin as a shorter one does, and may end in up to two quotes more.
_TEXT = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
# A number, a date or a truth value; a date may have a space in it.
_WORD = re.compile(r"[^,\]}\n#]+")


def lines(text: str) -> dict[Path, int]:
    """The line of every key and table, counted from 1; of what is written several times the first.

    Args:
        text: What ``tomllib`` has read without an error. Line ends are ``\\n``.
    """
    return _Scan(text).document()


class _Scan:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._counted = (0, 1)
        self.found: dict[Path, int] = {}

    def document(self) -> dict[Path, int]:
        table: Path = ()
        self._skip_blank()
        while self._at < len(self._text):
            if self._take("["):
                double = self._take("[")
                table = self._key(())
                self._at += 2 if double else 1
            else:
                self._pair(table)
            self._skip_blank()
        return self.found

    def _pair(self, table: Path) -> None:
        path = self._key(table)
        self._at += 1  # the equals sign
        self._value(path)

    def _key(self, table: Path) -> Path:
        """Read a key with its dots, and note its line and that of the tables it makes."""
        path, more = table, "."
        while more:
            part = _KEY.match(self._text, self._at)
            assert part is not None
            self._at = part.end()
            name, more = part.groups()
            path = (*path, tomllib.loads(f"key = {name}")["key"] if name[0] in "\"'" else name)
            self.found.setdefault(path, self._line())
        return path

    def _value(self, path: Path) -> None:
        self._skip_blank()
        if self._take("{"):
            self._skip_blank()
            while not self._take("}"):
                self._pair(path)
                self._skip_blank()
                self._take(",")
                self._skip_blank()
        elif self._take("["):
            self._skip_blank()
            while not self._take("]"):
                self._value(path)
                self._skip_blank()
                self._take(",")
                self._skip_blank()
        else:
            text = self._text[self._at] in "\"'"
            found = (_TEXT if text else _WORD).match(self._text, self._at)
            assert found is not None
            self._at = found.end()

    def _skip_blank(self) -> None:
        found = _BLANK.match(self._text, self._at)
        assert found is not None
        self._at = found.end()

    def _take(self, sign: str) -> bool:
        taken = self._text.startswith(sign, self._at)
        self._at += taken
        return taken

    def _line(self) -> int:
        # Counted on from the key before: the whole text once, whatever the number of keys.
        at, line = self._counted
        self._counted = (self._at, line + self._text.count("\n", at, self._at))
        return self._counted[1]
