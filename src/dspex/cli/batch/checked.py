"""A file's rows, looked through before anything is asked."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import dspex
from dspex.cli.batch.mapped import Mapped
from dspex.cli.batch.rows import Fault, Form, Header, Row, read

# A file with a fault in each row needs no page for each.
_TOLD = 10


class Checked:
    """The rows of a file that has been read once from beginning to end, and of which nothing is kept.

    Args:
        path: The file.
        form: Its format.
        limit: Rows after this many are left.
        name: What it is called in messages.

    Attributes:
        count: How many rows there are.
        columns: All columns, in the order in which they came.
        characters: Length of all inputs together, as text.
    """

    def __init__(self, path: Path, form: Form, limit: int | None, name: str) -> None:
        self._path, self._form, self._limit, self._name = path, form, limit, name
        self._seen = _stamp(path)
        self.count = 0
        self.columns: dict[str, None] = {}
        self.characters = 0

    def check(self, mapped: Mapped) -> None:
        """Read all of it.

        Raises:
            InvalidInput: Rows cannot be read, or miss a column; the first of them are named with their lines.
        """
        faults: list[Fault] = []
        wrong = 0
        self.count, self.characters = 0, 0
        for came in read(self._path, self._form):
            row: Row | Fault
            if isinstance(came, Header):
                # What it misses each row misses: told once.
                self.columns.update(dict.fromkeys(came.columns))
                if (fault := mapped.fault(came.columns)) is None:
                    continue
                faults, wrong = [Fault(came.line, fault)], 1
                break
            row = came
            if isinstance(row, Row):
                self.count += 1
                self.columns.update(dict.fromkeys(row.values))
                if self._form == "jsonl" and (fault := mapped.fault(row.values)) is not None:
                    row = Fault(row.line, fault)
            if isinstance(row, Fault):
                wrong += 1
                if len(faults) < _TOLD:
                    faults.append(row)
            else:
                self.characters += sum(len(str(value)) for value in mapped.inputs(row.values).values())
            if self._limit is not None and self.count >= self._limit:
                break
        if faults:
            lines = "\n".join(f"  line {fault.line}: {fault.message}" for fault in faults)
            more = f"\n  and {wrong - len(faults)} more" if wrong > len(faults) else ""
            raise dspex.InvalidInput(
                f"{self._name} cannot be used as it is; nothing was asked:\n{lines}{more}",
                details={"lines": [fault.line for fault in faults], "wrong": wrong},
            )
        if not self.columns and self._form == "csv" and not self._path.stat().st_size:
            raise dspex.InvalidInput(f"{self._name} is empty: the first line of CSV names the columns")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The rows once more.

        Raises:
            Conflict: The file is not what it was.
        """
        number = 0
        for row in read(self._path, self._form):
            if isinstance(row, Header):
                if list(self.columns) != row.columns:
                    self._changed()
                continue
            if number == self.count:
                return
            number += 1
            if isinstance(row, Fault):
                self._changed()
            yield row.values
        if number != self.count or _stamp(self._path) != self._seen:
            self._changed()

    def _changed(self) -> NoReturn:
        raise dspex.Conflict(
            f"{self._name} was changed while it was read; run the same command again: rows that are the "
            "same and recorded are not asked again"
        )


def _stamp(path: Path) -> tuple[int, int]:
    now = path.stat()
    return now.st_size, now.st_mtime_ns


def open_input(name: str, folder: Path) -> Path:
    """The file of that name; standard input is copied to one, because it is read more than once.

    Raises:
        InvalidInput: It is not there, or is no file.
    """
    if name == "-":
        if sys.stdin is None:
            raise dspex.InvalidInput("'-' reads standard input, which is closed")
        copy = Path(folder, "input")
        with copy.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        return copy
    path = Path(name)
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise dspex.InvalidInput(f"{name!r} cannot be read: {os.strerror(error.errno or 0)}") from None
    if not path.is_file():
        raise dspex.InvalidInput(f"{name!r} is no file; pipe it in and write '-'")
    return path
