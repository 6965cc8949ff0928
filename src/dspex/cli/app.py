"""The command line: what holds for all commands."""

from __future__ import annotations

from typing import Annotated

import typer

import dspex
from dspex.cli.commands import Commands

app = typer.Typer(
    name="dspex",
    cls=Commands,
    help="Run DSPy programs in a supervised pool of worker processes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # "list[str]" is a type and no markup
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"dspex {dspex.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Run DSPy programs in a supervised pool of worker processes."""
