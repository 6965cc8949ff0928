"""The text of a signature cut into tokens, and refusals that point at the place.

Python's own parser is not used here: it reads a whole language where a signature has ten kinds of
token, turns look-alike letters into ASCII, warns about odd escapes, and gives up on deep nesting in
another way in each Python version. What this file does not know, nothing after it can meet.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

from dspex.errors import InvalidSignature

# A name is `\w+`, a little less than Python allows: it is by `\w+` that DSPy's chat format finds fields.
_TOKEN = re.compile(
    r"""
      (?P<space>[ \t\r\n\f]+)
    | (?P<name>[^\W\d]\w*)
    | (?P<number>-?[0-9]+)
    | (?P<text>'(?:[^'\\\r\n]|\\.)*'|"(?:[^"\\\r\n]|\\.)*")
    | (?P<mark>->|\.\.\.|[,:\[\]|.])
    """,
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)")
_ESCAPES = {"\\": "\\", "'": "'", '"': '"', "n": "\n", "r": "\r", "t": "\t"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_REASONS = {
    "(": "calls and parentheses are not part of a signature",
    ")": "calls and parentheses are not part of a signature",
    "=": "a field of a signature has no default value",
    "*": "'*' is not part of a signature; name each field",
    "'": "the closing quote is missing",
    '"': "the closing quote is missing",
}
#: Characters of the line that an error shows on each side of the place.
_AROUND = 50


class Token(NamedTuple):
    """One token.

    Attributes:
        kind: ``"name"``, ``"number"``, ``"text"``, ``"end"``, or the mark itself (``"->"``, ``","``, …).
        value: As written; of a text, what it means without its quotes.
        position: Where it begins, in characters from the start of the signature.
    """

    kind: str
    value: str
    position: int


def refusal(text: str, position: int, reason: str) -> InvalidSignature:
    """The error for one place of a signature, with a caret below it.

    Args:
        text: The whole signature as the caller wrote it.
        position: Where the fault is, in characters from its start.
        reason: What is wrong there, without a full stop.
    """
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    line = text[start : end if end >= 0 else len(text)]
    column = position - start
    left = max(0, column - _AROUND)
    shown = line[left : column + _AROUND]
    before = "…" if left else ""
    # Whatever a terminal would not print as one cell becomes one that it does, or the caret would be off.
    shown = "".join(character if character.isprintable() else "?" for character in shown.replace("\t", " "))
    caret = " " * (len(before) + column - left) + "^"
    # A lone surrogate cannot be sent as UTF-8; a question mark keeps every position as it is.
    sendable = text.encode("utf-8", "replace").decode()
    return InvalidSignature(
        f"{reason}\n  {before}{shown}\n  {caret}", details={"position": position, "signature": sendable}
    )


class Reader:
    """The tokens of one text, taken one after the other.

    Args:
        text: The text.
        names: Types that it may name beside those of the whitelist.

    Raises:
        InvalidSignature: Something in the text is no token of a signature.
    """

    def __init__(self, text: str, names: Collection[str] = ()) -> None:
        self.text = text
        self.names = names
        self._tokens = _tokens(text)
        self._next = 0

    @property
    def token(self) -> Token:
        """The token that comes next; at the end it is of kind ``"end"``."""
        return self._tokens[self._next]

    def take(self) -> Token:
        """The next token, and go on to the one after it."""
        token = self._tokens[self._next]
        if token.kind != "end":
            self._next += 1
        return token

    def take_if(self, kind: str) -> bool:
        """Whether the next token is of that kind; if it is, go on to the one after it."""
        if self.token.kind != kind:
            return False
        self.take()
        return True

    def fail(self, reason: str, position: int | None = None) -> InvalidSignature:
        """The refusal for a place, the next token's where none is given; the caller raises it."""
        return refusal(self.text, self.token.position if position is None else position, reason)


def quote(text: str) -> str:
    """Text in quotes, written as Python's ``repr`` does and read back by this file.

    ``repr`` itself will not do: what it escapes depends on the Unicode tables of the Python version,
    and one signature has to be spelled alike in all of them.
    """
    mark = '"' if "'" in text and '"' not in text else "'"
    escaped = text.replace("\\", "\\\\").replace(mark, "\\" + mark)
    for letter, character in (("n", "\n"), ("r", "\r"), ("t", "\t")):
        escaped = escaped.replace(character, "\\" + letter)
    return mark + _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", escaped) + mark


def _tokens(text: str) -> list[Token]:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise refusal(text, error.start, "a lone surrogate is not part of any text") from None
    tokens = []
    position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            character = text[position]
            reason = _REASONS.get(character, f"{character!a} is not part of a signature")
            raise refusal(text, position, reason)
        kind = found.lastgroup or ""
        if kind == "text":
            tokens.append(Token(kind, _meaning(text, position, found[0]), position))
        elif kind != "space":
            tokens.append(Token(found[0] if kind == "mark" else kind, found[0], position))
        position = found.end()
    tokens.append(Token("end", "", len(text)))
    return tokens


def _meaning(text: str, position: int, quoted: str) -> str:
    control = _CONTROL.search(quoted)
    if control:
        raise refusal(text, position + control.start(), "a control character inside quotes has to be escaped")

    def unescaped(found: re.Match[str]) -> str:
        code = found[1]
        if code in _ESCAPES:
            return _ESCAPES[code]
        number = int(code[1:], 16) if len(code) > 1 else -1
        if number < 0 or 0xD800 <= number <= 0xDFFF:
            known = r"\\ \' \" \n \r \t \xNN \uNNNN"
            raise refusal(text, position + 1 + found.start(), f"unknown escape; allowed are {known}")
        return chr(number)

    return _ESCAPE.sub(unescaped, quoted[1:-1])
