"""Checks of option values, with one way of saying what is wrong."""

from __future__ import annotations

import math
from typing import Any

from dspex.errors import InvalidOption
from dspex.types import Budget


def refuse(option: str, wants: str, value: object, owner: str = "") -> InvalidOption:
    """The error for an option that has a value it does not take.

    Args:
        option: Its name.
        wants: What it takes, to end the sentence "it has to be …".
        value: What was given.
        owner: The class it belongs to, if that is not plain.
    """
    name = f"{owner}.{option}" if owner else option
    return InvalidOption(f"{name} has to be {wants}, not {value!r}", details={"option": option})


def whole_number(option: str, value: Any, least: int, *, optional: bool = False, owner: str = "") -> None:
    """Refuse what is no whole number of at least ``least``; a boolean is none.

    Raises:
        InvalidOption: It is not one; None is taken if ``optional``.
    """
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise refuse(option, f"a whole number of at least {least}", value, owner)


def number(
    option: str,
    value: Any,
    least: float = 0.0,
    *,
    what: str = "a number",
    optional: bool = False,
    owner: str = "",
) -> float | None:
    """The value as a finite float of at least ``least``.

    Raises:
        InvalidOption: It is not one; None is taken if ``optional``.
    """
    if value is None and optional:
        return None
    if not isinstance(value, bool) and isinstance(value, int | float):
        try:
            found = float(value)
        except OverflowError:
            found = math.inf
        if math.isfinite(found) and found >= least:
            return found
    at_least = f" of at least {least:g}" if least else ""
    raise refuse(option, f"{what}{at_least}", value, owner)


def names(option: str, value: Any, *, owner: str = "") -> tuple[str, ...]:
    """The value as a tuple of names, from any iterable of them but a single text.

    Raises:
        InvalidOption: It is not one.
    """
    if not isinstance(value, str | bytes):
        try:
            found = tuple(value)
        except TypeError:
            pass
        else:
            if all(isinstance(item, str) for item in found):
                return found
    raise refuse(option, "a list of names", value, owner)


def text(option: str, value: Any, *, optional: bool = True, owner: str = "") -> None:
    """Refuse what is no text, or an empty one.

    Raises:
        InvalidOption: It is not text; None is taken if ``optional``.
    """
    if value is None and optional:
        return
    if not isinstance(value, str) or not value:
        raise refuse(option, "text", value, owner)


def flag(option: str, value: Any, *, owner: str = "") -> None:
    """Refuse what is neither True nor False.

    Raises:
        InvalidOption: It is neither.
    """
    if not isinstance(value, bool):
        raise refuse(option, "True or False", value, owner)


def budget(given: Any, option: str = "budget") -> Budget:
    """A budget that was given.

    Raises:
        InvalidOption: It is none, or it limits nothing.
    """
    if not isinstance(given, Budget):
        raise refuse(option, "a Budget", given)
    if given == Budget():
        raise refuse(option, "a Budget of tokens, of cost or of both", given)
    whole_number("tokens", given.tokens, 0, optional=True, owner="Budget")
    number("cost", given.cost, optional=True, what="a number of US dollars", owner="Budget")
    return given
