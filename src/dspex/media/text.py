"""Text that is more than text: code, and the reasoning of a model. Both are a ``str`` as well."""

from __future__ import annotations

from typing import Self

from dspex.media.source import refuse


class Code(str):
    """Code that a program is given, or that a model wrote.

    Example:
        >>> Code("print(1)", "python").upper()
        'PRINT(1)'

    Attributes:
        language: What it is written in.
    """

    language: str

    def __new__(cls, code: str, language: str = "python") -> Self:
        """Of a text, and what it is written in."""
        _require_text("Code", code)
        _require_text("the language of Code", language)
        made = super().__new__(cls, code)
        made.language = language
        return made

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        return str.__str__(self), self.language

    @property
    def code(self) -> str:
        """The code alone, as DSPy names it."""
        return str.__str__(self)


class Reasoning(str):
    """How a model came to its answer: as it told, or as its provider gave it beside the answer."""

    __slots__ = ()

    def __new__(cls, content: str) -> Self:
        """Of a text."""
        _require_text("Reasoning", content)
        return super().__new__(cls, content)

    @property
    def content(self) -> str:
        """The text alone, as DSPy names it."""
        return str.__str__(self)


def _require_text(what: str, value: object) -> None:
    if not isinstance(value, str):
        raise refuse(f"{what} is text, not {type(value).__name__}")
