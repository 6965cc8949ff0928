"""The commands by name: what their list says of each, and where each is loaded from when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

from dspex.cli import signals


class Place(NamedTuple):
    """Where a command is, and its first sentence, so that a list of all loads none."""

    module: str
    summary: str


COMMANDS = {
    "run": Place("dspex.cli.run", "Run a program once and print its outputs."),
    "batch": Place("dspex.cli.batch.command", "Run a program over the rows of a file."),
    "chat": Place("dspex.cli.chat.command", "Talk with a model, which knows what was said before."),
    "modules": Place(
        "dspex.cli.modules", "Show the modules that calls can name, or one of them with its options."
    ),
    "doctor": Place(
        "dspex.cli.doctor.command",
        "Try what dspex needs of this machine, and say what mends what is missing.",
    ),
    "sandbox": Place(
        "dspex.cli.sandbox",
        "Fetch Pyodide (6 MB), on which the sandbox 'deno' runs generated code, and make its snapshot.",
    ),
    "serve": Place("dspex.cli.serve", "Serve programs over HTTP, until SIGTERM, SIGHUP or Ctrl-C."),
    "status": Place("dspex.cli.status", "Show the open runtimes of this user, their workers and calls."),
    "store": Place("dspex.cli.store", "The database in which sessions are kept."),
    "session": Place("dspex.cli.session", "The sessions of a store: listed, shown, exported, deleted."),
}


class Commands(TyperGroup):
    """Commands of which only the one that is asked for is loaded: each imports much that no other needs."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name, help=place.summary) for name, place in COMMANDS.items()}

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - given by Typer
        """The command itself, loaded now."""
        return load(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - given by Typer
        """List the commands by what is known of them without them."""
        limit = formatter.width - 6 - max(map(len, self.commands))
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, command.get_short_help_str(limit)) for name, command in self.commands.items()]
            )


def load(name: str) -> Any:
    """The command of this name, or the group of commands."""
    with signals.loading():
        module = import_module(COMMANDS[name].module)
    if hasattr(module, "app"):
        return get_group(module.app)
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name, epilog=module.EXAMPLES)(getattr(module, name))
    return get_command(alone)
