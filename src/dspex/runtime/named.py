"""Programs that the settings name, found by that name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dspex.errors import DspexError, InvalidOption, ModuleNotFound
from dspex.program import forms
from dspex.program.catalogue import MODULES
from dspex.program.importpath import is_path
from dspex.program.suggest import nearest
from dspex.settings import Settings

_PREFIX = "dspy."


class Single(NamedTuple):
    """A named program of one module, as a call takes it.

    Attributes:
        module: The module.
        state: The file with its state; None without one.
        how: What else ``adapter.generate`` takes, as far as the settings say it.
    """

    module: str
    state: str | None
    how: dict[str, Any]


def find(settings: Settings, name: object) -> Mapping[str, Any] | None:
    """What the settings say of the program of that name; None when it names a module.

    Raises:
        ModuleNotFound: It is nearly the name of one of the programs, and no module's.
        InvalidOption: A program has the name of a module.
    """
    if not isinstance(name, str) or is_path(name):
        return None
    found = settings.programs.get(name)
    is_module = name in MODULES or _PREFIX + name in MODULES
    if found is None:
        close = None if is_module else nearest(name, settings.programs)
        if close is not None:
            raise ModuleNotFound(
                f"unknown program {name!a}; did you mean {close!r}?",
                details={"module": name, "known": list(settings.programs)},
            )
        return None
    if is_module:
        wrong = InvalidOption(
            f"{name!r} is the name of a module; give the program another one", details={"option": "module"}
        )
        raise settings.blame(wrong, "program", name)
    return found


def single(settings: Settings, name: str, options: Mapping[str, Any]) -> Single:
    """A named program of one module.

    Args:
        settings: The settings that name it.
        name: Its name.
        options: What ``find`` gave.

    Raises:
        InvalidOption: It has several modules, or what it says cannot be so; with its place in the file.
        InvalidSignature: Its signature is none, likewise.
    """
    try:
        return _single(name, options)
    except DspexError as error:
        said = error if "option" in error.details else _about(error, "signature")
        raise settings.blame(said, "program", name) from None


def _single(name: str, options: Mapping[str, Any]) -> Single:
    stages = options.get("modules") or [options.get("module", "dspy.Predict")]
    if len(stages) > 1:
        raise InvalidOption(
            f"{name!r} has {len(stages)} modules; such a program is made with create_program",
            details={"option": "modules"},
        )
    one = {"module": stages[0]} if isinstance(stages[0], str) else dict(stages[0])
    said = {**{key: value for key, value in options.items() if key not in ("module", "modules")}, **one}
    if "demos" in said:
        raise InvalidOption(
            f"the demos of {name!r} belong in its state, a file that module.save() wrote",
            details={"option": "modules"},
        )
    instructions = said.pop("instructions", None)
    signature = said.pop("signature", None)
    if signature is not None and not forms.is_path(signature):
        signature = forms.read(signature).signature.with_instructions(
            instructions or forms.read(signature).signature.instructions
        )
    elif instructions is not None:
        raise InvalidOption(
            f"instructions of {name!r} need its signature beside them", details={"option": "instructions"}
        )
    how = {key: said[key] for key in ("lm", "options", "tools", "sandbox") if key in said}
    return Single(
        said["module"], said.get("state"), how if signature is None else how | {"signature": signature}
    )


def _about(error: DspexError, option: str) -> DspexError:
    return type(error)(error.message, details={**error.details, "option": option})
