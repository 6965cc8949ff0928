"""``dspex modules``: which modules there are, and their options."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.text import Text

import dspex
from dspex.cli.page import as_json, page, table
from dspex.cli.show import problem
from dspex.program.catalogue import MODULES, ModuleEntry, find

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

    Exit codes: 0 done, 2 there is no such module.
    """
    try:
        entry = None if name is None else find(name)
    except dspex.ModuleNotFound as error:
        problem(error, as_json=json)
        raise typer.Exit(_BAD_USAGE) from None
    if json:
        as_json(_facts(entry) if entry else [_facts(entry) for entry in MODULES.values()])
    elif entry:
        page(*_one(entry))
    else:
        rows = [(entry.name, _added(entry), entry.summary) for entry in MODULES.values()]
        page(table(("MODULE", "ADDS OUTPUTS", "WHAT IT IS FOR"), rows))


def _facts(entry: ModuleEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "summary": entry.summary,
        "adds_outputs": entry.adds_outputs,
        "repeatable": entry.repeatable,
        "options": [
            {"name": option.name, "type": option.type, "default": option.default, "summary": option.summary}
            for option in entry.options.values()
        ],
    }


def _one(entry: ModuleEntry) -> Iterator[RenderableType]:
    yield Text(entry.name, style="bold").append(f"  {entry.summary}", style="not bold")
    yield Text(f"Adds outputs: {_added(entry)}. When its worker is lost, it is {_when_lost(entry)}.")
    yield Text()
    yield table(
        ("OPTION", "TAKES", "DEFAULT", "MEANING"),
        [
            (
                option.name,
                option.type,
                "the LM's" if option.default is None else repr(option.default),
                option.summary,
            )
            for option in entry.options.values()
        ],
    )


def _added(entry: ModuleEntry) -> str:
    return ", ".join(entry.adds_outputs) or "none"


def _when_lost(entry: ModuleEntry) -> str:
    return "run again" if entry.repeatable else "not run again"
