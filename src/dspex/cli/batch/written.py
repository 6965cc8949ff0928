"""The output file: each row as it came in, and beside it what the program made of it."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TextIO

import dspex
from dspex.cli.batch.program import Ended
from dspex.cli.batch.rows import Form
from dspex.wire.jsonready import json_ready

_ERROR = "error"
_MISSING = -1


class Spool:
    """What became of each row, in the order in which they ended, until the output is written.

    It is a file without a name: whatever happens, nothing of it is left, because the journal has it all. In
    memory is only where each row's lies, eight bytes a row.

    Args:
        folder: Where it is; that of the output, which has to have room for as much in any case.
    """

    def __init__(self, folder: Path) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 — closed by `close`
        self._places = array("q")
        self._end = 0
        #: Every output field that a row has.
        self.fields: dict[str, None] = {}

    def add(self, outcome: Ended) -> None:
        """Take down what became of a row."""
        if outcome.response is not None:
            self.put(outcome.index, {"outputs": json_ready(dict(outcome.response.outputs))})
            return
        assert outcome.error is not None
        self.put(outcome.index, {"error": {"code": outcome.error.code, "message": outcome.error.message}})

    def put(self, index: int, record: dict[str, Any]) -> None:
        """Take down a record: ``{"outputs": …}`` or ``{"error": …}``."""
        self.fields.update(dict.fromkeys(record.get("outputs", ())))
        text = json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        if len(self._places) <= index:
            self._places.extend([_MISSING] * (index + 1 - len(self._places)))
        self._file.seek(self._end)
        self._places[index] = self._end
        self._end += self._file.write(text)

    def __getitem__(self, index: int) -> dict[str, Any] | None:
        """What became of a row; None when it has not ended."""
        if index >= len(self._places) or self._places[index] == _MISSING:
            return None
        self._file.seek(self._places[index])
        record: dict[str, Any] = json.loads(self._file.readline().decode("utf-8", "surrogatepass"))
        return record

    def close(self) -> None:
        """Let go of the file."""
        with suppress(OSError):  # a full disk is told where it is written to
            self._file.close()


class Names:
    """What output fields are called where an input column has the same name: nothing is overwritten.

    Args:
        columns: The input's columns.
        fields: The output's fields.
    """

    def __init__(self, columns: Iterable[str], fields: Iterable[str]) -> None:
        taken = set(columns)
        self.of: dict[str, str] = {}
        for field in fields:
            self.of[field] = _free(field, taken)
            taken.add(self.of[field])
        self.error = _free(_ERROR, taken)

    @property
    def renamed(self) -> dict[str, str]:
        """Those that are called otherwise."""
        return {field: name for field, name in self.of.items() if field != name}


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_output"
    return name


def write(
    file: TextIO, form: Form, rows: Iterable[Mapping[str, Any]], columns: Iterable[str], spool: Spool
) -> Names:
    """Write all rows in their order, and give what the new columns are called."""
    columns = list(columns)
    names = Names(columns, spool.fields)
    made = _made(rows, spool, names)
    if form == "jsonl":
        for row, outputs, error in made:
            failed = {} if error is None else {names.error: error}
            file.write(json.dumps({**row, **outputs, **failed}, ensure_ascii=False) + "\n")
        return names
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*columns, *names.of.values(), names.error])
    for row, outputs, error in made:
        told = "" if error is None else f"{error['code']}: {error['message']}"
        cells = [_cell(row.get(column)) for column in columns]
        writer.writerow([*cells, *(_cell(outputs.get(name)) for name in names.of.values()), told])
    return names


def _made(
    rows: Iterable[Mapping[str, Any]], spool: Spool, names: Names
) -> Iterator[tuple[Mapping[str, Any], dict[str, Any], dict[str, str] | None]]:
    for index, row in enumerate(rows):
        record = spool[index] or {
            "error": {"code": "cancelled", "message": "the batch ended before this row"}
        }
        outputs = {names.of[field]: value for field, value in record.get("outputs", {}).items()}
        yield row, outputs, record.get("error")


def _cell(value: Any) -> str:
    """A value in CSV: text as it is, nothing as nothing, all else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def check_output(name: str, source: str, journal: Path | None, *, overwrite: bool) -> Path | None:
    """The output's path; None of standard output.

    Raises:
        InvalidOption: It cannot be written, it is the input, or something is there that this would replace.
    """
    if journal is not None and journal.resolve() in {Path(one).resolve() for one in (name, source)}:
        raise _refused(f"the journal {str(journal)!r} is the input or the output as well; name another file")
    if name == "-":
        return None
    path = Path(name)
    path = path.resolve() if path.is_symlink() else path
    if not path.parent.is_dir():
        raise _refused(f"there is no directory {str(path.parent)!r}; make it first")
    if path.is_dir():
        raise _refused(f"{name!r} is a directory; name a file in it")
    if path.exists():
        if source != "-" and path.samefile(source):
            raise _refused(f"{name!r} is the input as well; write to another file")
        begun = journal is not None and journal.exists()
        if path.is_file() and not overwrite and not begun:
            raise _refused(f"{name!r} is there already; remove it, or pass --overwrite")
    if not os.access(path if path.exists() and not path.is_file() else path.parent, os.W_OK):
        raise _refused(f"{str(path.parent)!r} cannot be written to")
    return path


def _refused(message: str) -> dspex.InvalidOption:
    return dspex.InvalidOption(message, details={"option": "out"})


@contextmanager
def replacing(path: Path | None) -> Iterator[TextIO]:
    """A file to write to, which takes its place whole, or not at all; standard output where there is none."""
    if path is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", newline="", errors="surrogatepass")
        yield sys.stdout
        sys.stdout.flush()
        return
    if path.exists() and not path.is_file():  # a pipe or a device: nothing can take its place
        with path.open("w", encoding="utf-8", newline="") as file:
            yield file
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8", newline="", errors="surrogatepass") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            part.chmod(path.stat().st_mode & 0o777)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
