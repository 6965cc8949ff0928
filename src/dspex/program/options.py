"""Options of a module: what each one takes, checked before anything runs."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dspex.errors import InvalidOption, ModuleNotFound
from dspex.program.suggest import nearest

if TYPE_CHECKING:
    from dspex.program.catalogue import ModuleEntry


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a module.

    Attributes:
        name: As the caller writes it.
        type: What it takes, in words that end the sentence "it takes …".
        check: Gives the value as it is sent to the module; TypeError or ValueError when it is not of `type`.
        default: What holds when the option is not given; None leaves it to the LM profile.
        summary: One line for people.
        parameter: What DSPy's constructor calls it, if it does so by another name.
        required: Whether a call has to give it.
    """

    name: str
    type: str
    check: Callable[[Any], Any]
    default: Any
    summary: str
    parameter: str = ""
    required: bool = False


def check(entry: ModuleEntry, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options as the module gets them, sorted by name; one that is None is left out.

    Equal options come out equal: ``temperature=0`` is ``0.0``, ``stop="x"`` is ``["x"]``.

    Raises:
        InvalidOption: The module has no such option, or the value is not one that it takes. ``details``
            has ``module``, ``option`` and either ``known`` or ``expected``.
    """
    if options is None:
        options = {}
    if not isinstance(options, Mapping):
        raise InvalidOption(f"options of {entry.name} are a dict, not {type(options).__name__}")
    known = entry.options
    if entry.of is not None:
        # Those of the module inside, which is a choice of the caller's.
        inner = inside(entry, options.get("of"))
        known = {**inner.options, **known}
    checked = {}
    for name in sorted(options, key=str):
        value = options[name]
        option = known.get(name) if isinstance(name, str) else None
        if option is None:
            raise _unknown(entry, str(name), sorted(known))
        if value is None:
            continue
        try:
            checked[name] = option.check(value)
        except (TypeError, ValueError):
            raise InvalidOption(
                f"option {name!r} of {entry.name} takes {option.type}, not {reprlib.repr(value)}",
                details={"module": entry.name, "option": name, "expected": option.type},
            ) from None
    for name, option in known.items():
        if option.required and name not in checked:
            raise InvalidOption(
                f"{entry.name} needs {name}=...: {option.type}",
                details={"module": entry.name, "option": name, "expected": option.type},
            )
    return checked


def inside(entry: ModuleEntry, name: Any) -> ModuleEntry:
    """The module that one like ``BestOfN`` runs inside.

    Args:
        entry: The module around it.
        name: What its option ``of`` says; None is its default.

    Raises:
        InvalidOption: No module has that name, or it is not one to be run inside.
    """
    from dspex.program import catalogue  # which has this room's options in its table

    able = [known for known, other in catalogue.MODULES.items() if other.of is None]
    try:
        inner = catalogue.find(entry.of or "" if name is None else name)
    except ModuleNotFound as error:
        raise InvalidOption(
            f"option 'of' of {entry.name}: {error.message}",
            details={"module": entry.name, "option": "of", "known": able},
        ) from None
    if inner.of is not None:
        raise InvalidOption(
            f"{entry.name} cannot be made of {inner.name}; of one of {', '.join(able)}",
            details={"module": entry.name, "option": "of", "known": able},
        )
    return inner


def _unknown(entry: ModuleEntry, name: str, known: list[str]) -> InvalidOption:
    close = nearest(name, known)
    hint = f"did you mean {close!r}? It has" if close else "it has"
    shown = name if len(name) <= 40 else name[:40] + "..."
    return InvalidOption(
        f"{entry.name} has no option {shown!a}; {hint} {', '.join(known)}",
        details={"module": entry.name, "option": name.encode("utf-8", "replace").decode(), "known": known},
    )


def number(low: float, high: float) -> Callable[[Any], float]:
    """A check for a number from `low` to `high`; a whole one comes out as a float."""

    def checked(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError
        if not low <= value <= high:  # NaN is in no range
            raise ValueError
        # -0.0 would be another fingerprint than 0.0.
        return float(value) + 0.0

    return checked


def real(value: Any) -> int | float:
    """A check for a number, which comes out as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    if not -1e308 <= value <= 1e308:
        raise ValueError
    return value


def whole(low: int, high: int) -> Callable[[Any], int]:
    """A check for a whole number from `low` to `high`; neither a bool nor ``3.0`` is one."""

    def checked(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError
        return int(value)

    return checked


def one_of(*choices: str) -> Callable[[Any], str]:
    """A check for one of some words."""

    def checked(value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError
        return value

    return checked


def text(value: Any) -> str:
    """A check for a text."""
    if not isinstance(value, str):
        raise TypeError
    return value


def texts(most: int) -> Callable[[Any], list[str]]:
    """A check for one text or a list of up to `most`, none of them empty; it comes out as a list."""

    def checked(value: Any) -> list[str]:
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list | tuple) or not 1 <= len(listed) <= most:
            raise ValueError
        for text in listed:
            if not isinstance(text, str) or not text:
                raise ValueError
            text.encode()  # a lone surrogate cannot be sent; its error is a ValueError as well
        return list(listed)

    return checked


_EFFORTS = ("minimal", "low", "medium", "high")

#: The options that DSPy's modules pass through to the LM, by name.
GENERATION: Mapping[str, Option] = {
    option.name: option
    for option in (
        Option(
            "temperature", "a number from 0 to 2", number(0, 2), None, "How freely the model chooses words."
        ),
        Option(
            "max_tokens", "a whole number from 1", whole(1, 2**31 - 1), None, "The most tokens to generate."
        ),
        Option(
            "top_p",
            "a number from 0 to 1",
            number(0, 1),
            None,
            "Choose among words of this total likelihood.",
        ),
        Option("n", "a whole number from 1 to 32", whole(1, 32), None, "How many completions to make."),
        Option("stop", "a text or a list of up to 16, none empty", texts(16), None, "Texts to stop at."),
        Option(
            "seed",
            "a whole number",
            whole(-(2**63), 2**63 - 1),
            None,
            "Makes sampling repeatable, where it can.",
        ),
        Option(
            "presence_penalty", "a number from -2 to 2", number(-2, 2), None, "Against words that were used."
        ),
        Option(
            "frequency_penalty", "a number from -2 to 2", number(-2, 2), None, "Against words used often."
        ),
        Option(
            "reasoning_effort", f"one of {', '.join(_EFFORTS)}", one_of(*_EFFORTS), None, "How long to think."
        ),
    )
}
