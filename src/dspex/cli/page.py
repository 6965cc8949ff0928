"""Tables and lines on standard output: for people on a terminal, for other programs when it is none."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence

import msgspec
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from dspex.cli.legible import legible

# Wide enough that nothing is wrapped where no terminal sets a width.
_WIDE = 10_000


def terminal() -> Console | None:
    """The terminal that is standard output; None when it is none, or shows text alone."""
    console = Console(highlight=False, markup=False, emoji=False)
    return console if console.is_terminal and not console.is_dumb_terminal else None


def page(*parts: RenderableType) -> None:
    """Print parts below each other: in colour and wrapped on a terminal, else plain lines."""
    if console := terminal():
        for part in parts:
            console.print(part)
        return
    lines = io.StringIO()
    console = Console(file=lines, width=_WIDE, color_system=None, highlight=False, markup=False, emoji=False)
    for part in parts:
        console.print(part)
    for line in lines.getvalue().splitlines():
        print(line.rstrip())


def table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """A table without lines; a column whose name ends in ``#`` is aligned right."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column.removesuffix("#"), justify="right" if column.endswith("#") else "left")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(legible(cell)) for cell in row))
    return made


def as_json(value: object) -> None:
    """Print a value as one line of JSON."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
