"""What values options take, and how a text of the environment becomes one."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

_FLAGS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


@dataclass(frozen=True)
class Kind:
    """One kind of value.

    Attributes:
        wants: What it is, to end the sentence "it has to be …".
        accepts: Whether a value is of this kind.
        parse: The value that a text means; ``ValueError`` if it means none.
        optional: Whether None is taken as well.
    """

    wants: str
    accepts: Callable[[Any], bool]
    parse: Callable[[str], Any]
    optional: bool = False

    def fits(self, value: object) -> bool:
        """Whether an option of this kind takes the value."""
        return (value is None and self.optional) or self.accepts(value)


def _flag(text: str) -> bool:
    try:
        return _FLAGS[text.strip().lower()]
    except KeyError:
        raise ValueError(text) from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))


def _plain(text: str) -> Any:
    # A request parameter may be a number or a list, and most often is a word, which nobody wants to quote.
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


TEXT = Kind("text", lambda value: isinstance(value, str), str)
FLAG = Kind("true or false", lambda value: isinstance(value, bool), _flag)
WHOLE = Kind("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool), int)
NUMBER = Kind("a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool), float)
NAMES = Kind(
    "a list of names",
    lambda value: isinstance(value, list | tuple) and all(isinstance(item, str) for item in value),
    _names,
)
ANY = Kind("a value", lambda _: True, _plain, optional=True)


def kind_of(annotation: Any) -> Kind:
    """The kind of an option that is declared with this type."""
    if typing.get_origin(annotation) in {types.UnionType, typing.Union}:
        members = typing.get_args(annotation)
        first = next(member for member in members if member is not types.NoneType)
        return replace(kind_of(first), optional=types.NoneType in members)
    plain = {
        str: TEXT,
        bool: FLAG,
        int: WHOLE,
        float: NUMBER,
        Iterable[str]: NAMES,
    }
    if typing.get_origin(annotation) is typing.Literal:
        return TEXT
    return plain[annotation]
