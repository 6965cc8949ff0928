"""Named programs, ``[program.NAME]``: what such a table holds, and what in it fits together."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path as File
from typing import Any

import msgspec

from dspex.errors import InvalidOption
from dspex.settings.kinds import ANY, TEXT, Kind

#: What one stage of ``modules`` may say.
STAGE = ("module", "signature", "instructions", "options", "tools", "lm", "sandbox", "state", "demos")
# What a program of one's own has in its code.
_OF_SIGNATURES = ("signature", "modules", "instructions")


class ProgramOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A program by its name, as ``adapter.program(NAME)`` and ``dspex run NAME`` run it.

    Attributes:
        module: A module, or the import path of a program of your own, which ``allow_modules`` has to allow.
        modules: Several, run as stages one after the other: names, or tables with ``module``, ``signature``
            and what else ``dspex.Stage`` takes. Instead of ``module``.
        signature: What goes in and comes out: text, or a table with ``inputs``, ``outputs`` and
            ``instructions``.
        instructions: The task in words, over those of the signature.
        lm: A profile's name, or a model.
        state: The JSON file that ``module.save("x.json")`` wrote. In a file a path goes from the file's own
            directory on.
        options: Options of the module.
        tools: Import paths of what it may call.
        demos: Examples, each a table of inputs and outputs by name.
        sandbox: Where code that the model wrote is run: ``"auto"``, ``"monty"`` or ``"deno"``.
    """

    module: str | None = None
    modules: list[str | dict[str, Any]] | None = None
    signature: str | dict[str, Any] | None = None
    instructions: str | None = None
    lm: str | None = None
    state: str | None = None
    options: dict[str, Any] | None = None
    tools: list[str] | None = None
    demos: list[dict[str, Any]] | None = None
    sandbox: str | None = None


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


def _split(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


def _table(text: str) -> Any:
    value = ANY.parse(text)
    if not _is_table(value):
        raise ValueError(text)
    return value


#: What each key of the table takes.
KINDS: dict[str, Kind] = {
    "module": TEXT,
    "modules": Kind(
        "a list of modules, each a name or a table with module",
        lambda value: (
            isinstance(value, list | tuple)
            and bool(value)
            and all(isinstance(one, str) or _is_table(one) for one in value)
        ),
        _split,
    ),
    "signature": Kind("text, or a table", lambda value: isinstance(value, str) or _is_table(value), str),
    "instructions": TEXT,
    "lm": TEXT,
    "state": TEXT,
    "options": Kind("a table of options by name", _is_table, _table),
    "tools": Kind(
        "a list of import paths",
        lambda value: isinstance(value, list | tuple) and all(isinstance(one, str) for one in value),
        _split,
    ),
    "demos": Kind(
        "a list of tables",
        lambda value: isinstance(value, list | tuple) and all(map(_is_table, value)),
        ANY.parse,
    ),
    "sandbox": TEXT,
}


def check(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a program, if they fit together.

    Args:
        name: Its name.
        options: What is said of it; each is of its kind.

    Raises:
        InvalidOption: They do not; ``details["option"]`` is the one that is wrong, or ``module``.
    """
    if not name or "/" in name or ":" in name or "=" in name:
        raise _refused("module", "a program's name has at least one character, and no slash, colon or '='")
    if "module" in options and "modules" in options:
        raise _refused("modules", "module and modules are both given; modules has all of them")
    if "module" not in options and "modules" not in options and "signature" not in options:
        raise _refused("module", "a program needs a signature, or a module, as in module = 'dspy.Predict'")
    if ":" in options.get("module", ""):
        for other in _OF_SIGNATURES:
            if other in options:
                raise _refused(
                    other, f"{options['module']} has its {other} in its code; leave it out, or name no module"
                )
    stages = options.get("modules", ())
    if len(stages) > 1:
        for other in ("state", "options", "tools"):
            if other in options:
                raise _refused(other, f"{other} of a program of several modules go into the table of each")
    for number, stage in enumerate(stages, 1):
        if isinstance(stage, Mapping):
            _check_stage(number, stage)
    return dict(options)


def _check_stage(number: int, stage: Mapping[str, Any]) -> None:
    for key in stage:
        if key not in STAGE:
            close = difflib.get_close_matches(key[:64], STAGE, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(STAGE)}"
            raise _refused("modules", f"module {number} has no option {key[:64]!a}; {hint}")
    if not isinstance(stage.get("module"), str):
        raise _refused("modules", f"module {number} needs module, its name as text")


def resolved(options: Mapping[str, Any], folder: File) -> dict[str, Any]:
    """The same with the paths of states, its stages' too, going from a folder on."""
    made = dict(options)
    if isinstance(made.get("state"), str):
        made["state"] = _below(folder, made["state"])
    if isinstance(made.get("modules"), list | tuple):
        made["modules"] = [
            {**stage, "state": _below(folder, stage["state"])}
            if isinstance(stage, Mapping) and isinstance(stage.get("state"), str)
            else stage
            for stage in made["modules"]
        ]
    return made


def _below(folder: File, path: str) -> str:
    return str(folder / os.path.expanduser(path))  # noqa: PTH111 (it never fails)


def _refused(option: str, wrong: str) -> InvalidOption:
    return InvalidOption(wrong, details={"option": option})
