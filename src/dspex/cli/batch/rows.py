"""Rows of a file: JSON Lines or CSV, one after the other, with the place of whatever is wrong."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import dspex

Form = Literal["jsonl", "csv"]
#: Endings of names, and what they say of a file.
ENDINGS: dict[str, Form] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}

_BOM = b"\xef\xbb\xbf"
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff")
# The largest that the C long of every platform holds: a cell may be as long as memory allows.
_LONGEST_CELL = 2**31 - 1


class Row(NamedTuple):
    """One row.

    Attributes:
        line: Number of the line on which it begins.
        values: Each column's value.
    """

    line: int
    values: dict[str, Any]


class Fault(NamedTuple):
    """A row that is none.

    Attributes:
        line: Number of the line on which it begins.
        message: What is wrong, and what to do.
    """

    line: int
    message: str


class Header(NamedTuple):
    """The first line of CSV.

    Attributes:
        line: Its number.
        columns: The names in it.
    """

    line: int
    columns: list[str]


class _Unreadable(Exception):
    """Nothing after this line can be read."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.fault = Fault(line, message)


def form_of(name: str, given: str | None) -> Form:
    """The format that was named, else the one that a file's name says.

    Raises:
        InvalidOption: Neither says it.
    """
    if given is not None:
        for form in ENDINGS.values():
            if given == form:
                return form
        raise dspex.InvalidOption(f"unknown format {given!r}: jsonl or csv", details={"option": "format"})
    if found := ENDINGS.get(Path(name).suffix.lower()):
        return found
    shown = "standard input and output" if name == "-" else repr(name)
    raise dspex.InvalidOption(
        f"{shown} does not say its format ({', '.join(ENDINGS)}); pass --format jsonl or --format csv",
        details={"option": "format"},
    )


def read(path: Path, form: Form) -> Iterator[Header | Row | Fault]:
    """CSV's header, then rows, and what is wrong with those that are none; empty lines are no rows."""
    try:
        yield from _csv(path) if form == "csv" else _jsonl(path)
    except _Unreadable as error:
        yield error.fault


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines with their ends, decoded one by one, so that what is not UTF-8 is told with its line."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            line = raw
            if number == 1:
                if line.startswith(_WIDE_BOMS):
                    raise _Unreadable(1, "the file is UTF-16; save it as UTF-8")
                line = line.removeprefix(_BOM)
            try:
                yield number, line.decode()
            except UnicodeDecodeError as error:
                raise _Unreadable(
                    number,
                    f"byte {error.start + 1} of the line (0x{line[error.start]:02x}) is not UTF-8; "
                    "save the file as UTF-8",
                ) from None


def _jsonl(path: Path) -> Iterator[Row | Fault]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            value = json.loads(line, parse_constant=_no_number)
        except json.JSONDecodeError as error:
            yield Fault(number, f"not JSON: {error.msg} at column {error.colno}")
        except (ValueError, RecursionError) as error:
            yield Fault(number, f"not JSON: {error}")
        else:
            if isinstance(value, dict):
                yield Row(number, value)
            else:
                kind = type(value).__name__
                yield Fault(number, f'a row is an object, {{"column": value}}, and this is a {kind}')


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _csv(path: Path) -> Iterator[Header | Row | Fault]:
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader((line for _, line in _lines(path)), strict=True)
    header: list[str] | None = None
    began = 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise _Unreadable(began, f"not CSV: {error}") from None
        if cells is None:
            return
        line, began = began, reader.line_num + 1
        if not cells:
            continue
        if header is None:
            header = _header(cells, line)
            yield Header(line, header)
        elif len(cells) != len(header):
            yield Fault(line, f"{_count(cells)}, and the header has {_count(header)}")
        else:
            yield Row(line, dict(zip(header, cells, strict=True)))


def _header(cells: list[str], line: int) -> list[str]:
    """The names of the columns.

    Raises:
        _Unreadable: One has no name, or two have the same.
    """
    for place, name in enumerate(cells, 1):
        if not name.strip():
            raise _Unreadable(line, f"column {place} of the header has no name; name it, or remove it")
        if name in cells[: place - 1]:
            first = cells.index(name) + 1
            raise _Unreadable(line, f"columns {first} and {place} are both named {name!r}; rename one")
    return cells


def _count(cells: list[str]) -> str:
    return f"{len(cells)} column" + ("" if len(cells) == 1 else "s")
