"""All commands, a file each."""

from __future__ import annotations

from typing import Annotated

import typer

import dspex
from dspex.cli import modules, run, sandbox, serve, session, status, store
from dspex.cli.batch import command as batch
from dspex.cli.chat import command as chat
from dspex.cli.doctor import command as doctor

app = typer.Typer(
    name="dspex",
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


app.command("run", epilog=run.EXAMPLES)(run.run)
app.command("batch", epilog=batch.EXAMPLES)(batch.batch)
app.command("chat", epilog=chat.EXAMPLES)(chat.chat)
app.command("modules", epilog=modules.EXAMPLES)(modules.modules)
app.command("doctor", epilog=doctor.EXAMPLES)(doctor.doctor)
app.command("sandbox", epilog=sandbox.EXAMPLES)(sandbox.sandbox)
app.command("serve", epilog=serve.EXAMPLES)(serve.serve)
app.command("status", epilog=status.EXAMPLES)(status.status)
app.add_typer(store.app)
app.add_typer(session.app)
