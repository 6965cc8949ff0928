"""``dspex modules``: which modules there are, and their options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.text import Text

import dspex
from dspex.adapter.capabilities import facts
from dspex.cli.page import as_json, page, table
from dspex.cli.show import problem
from dspex.program.catalogue import MODULES, ModuleEntry, find
from dspex.program.options import Option
from dspex.runtime.named import listed

#: Shown under ``dspex modules --help``.
EXAMPLES = """\b
Examples:
  dspex modules
  dspex modules ChainOfThought
  dspex modules ChainOfThought --json | jq '.options[].name'
"""

_BAD_USAGE = 2


def modules(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="One module, with or without its 'dspy.', and its options."),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; without NAME a list of them.")
    ] = False,
) -> None:
    """Show the modules that calls can name, or one of them with its options.

    The programs of the settings file are listed after them.

    Exit codes: 0 done, 2 there is no such module.
    """
    try:
        entry = None if name is None else find(name)
    except dspex.ModuleNotFound as error:
        problem(error, as_json=json)
        raise typer.Exit(_BAD_USAGE) from None
    if json:
        as_json(facts(entry) if entry else [facts(entry) for entry in MODULES.values()] + _programs())
    elif entry:
        page(*_one(entry))
    else:
        rows = [(entry.name, _added(entry), entry.status, entry.summary) for entry in MODULES.values()]
        shown: list[RenderableType] = [table(("MODULE", "ADDS OUTPUTS", "STATUS", "WHAT IT IS FOR"), rows)]
        if programs := _programs():
            cells = [
                (one["name"], ", ".join(one["modules"]), one["signature"] or "its own") for one in programs
            ]
            shown += [Text(), table(("PROGRAM", "MODULES", "SIGNATURE"), cells)]
        page(*shown)


def _programs() -> list[dict[str, Any]]:
    """The programs of the settings; none where these are wrong, which other commands say."""
    try:
        settings = dspex.Settings()
    except dspex.DspexError:
        return []
    return [
        {
            "name": name,
            "modules": [str(one.get("module") if isinstance(one, Mapping) else one) for one in _stages(said)],
            "signature": None if said.get("signature") is None else str(said["signature"]),
            "status": "program",
        }
        for name, said in listed(settings)
    ]


def _stages(said: Mapping[str, Any]) -> list[Any]:
    return list(said.get("modules") or [said.get("module") or "dspy.Predict"])


def _one(entry: ModuleEntry) -> Iterator[RenderableType]:
    yield Text(entry.name, style="bold").append(f"  {entry.summary}", style="not bold")
    yield Text(f"Adds outputs: {_added(entry)}. When its worker is lost, it is {_when_lost(entry)}.")
    yield Text(f"Needs: {', '.join(sorted(entry.needs)) or 'nothing'}. Runs {_where(entry)}.{_future(entry)}")
    yield Text()
    yield table(
        ("OPTION", "TAKES", "DEFAULT", "MEANING"),
        [
            (
                option.name,
                option.type,
                _default(entry, option),
                option.summary,
            )
            for option in entry.options.values()
        ],
    )


def _added(entry: ModuleEntry) -> str:
    return ", ".join(entry.adds_outputs) or "none"


def _default(entry: ModuleEntry, option: Option) -> str:
    if option.required:
        return "(has to be given)"
    if option.default is not None:
        return repr(option.default)
    return "the LM's" if option.name in entry.generation else "none"


def _where(entry: ModuleEntry) -> str:
    return "beside other calls" if entry.shared else "alone in a worker"


def _future(entry: ModuleEntry) -> str:
    return {"experimental": " DSPy calls it experimental.", "leaving": " A later DSPy will not have it."}.get(
        entry.status, ""
    )


def _when_lost(entry: ModuleEntry) -> str:
    return "run again" if entry.repeatable else "not run again"
