"""``dspex sandbox``: has what the sandbox for all of Python needs, once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dspex.cli.page import as_json
from dspex.cli.show import problem
from dspex.errors import DspexError
from dspex.pyodide import start
from dspex.pyodide.files import PYODIDE

#: Shown under ``dspex sandbox --help``.
EXAMPLES = """\b
Examples:
  dspex sandbox
  NPM_CONFIG_REGISTRY=https://npm.example.com dspex sandbox
  dspex sandbox --from pyodide-0.29.4.tgz
"""

_FAILED = 1


def sandbox(
    archive: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Take Pyodide from this archive of the npm registry, by no network.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fetch Pyodide (6 MB), on which the sandbox 'deno' runs generated code, and make its snapshot.

    Calls never fetch it. Where all is there already, nothing is done.

    Exit codes: 0 done, 1 it cannot be had, 2 usage.
    """
    try:
        snapshot = start.prepare(archive)
    except DspexError as error:
        problem(error, as_json=json)
        raise typer.Exit(_FAILED) from None
    if json:
        as_json({"pyodide": PYODIDE.version, "directory": str(snapshot.parent)})
    else:
        typer.echo(f"Pyodide {PYODIDE.version} is ready in {snapshot.parent}")
