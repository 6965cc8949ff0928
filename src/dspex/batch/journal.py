"""A batch's journal: what was answered is on disk before anything else is asked.

A text file. Each line is a checksum and a JSON object; the first names the program, each other one has the
outcome of an item. Lines are only ever added. Of several with one index the last counts.
"""

from __future__ import annotations

import fcntl
import os
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from dspex.errors import Conflict, InvalidOption, StoreError

FORMAT = 1
_NOWHERE = -1


class Header(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first line.

    Attributes:
        dspex_journal: The format's number.
        program: Fingerprint of what is asked: program and LM, in hex.
        says: The same in words, for people and for the message when it differs.
    """

    dspex_journal: int
    program: str
    says: dict[str, Any] = {}


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of an item.

    Attributes:
        index: The item's place, from 0.
        item: Its fingerprint, in hex.
        response: What is kept of the response; None when it failed.
        error: What ``DspexError.to_wire()`` gives; None when it did not.
    """

    index: int
    item: str
    response: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


class Journal:
    """An open journal. Used from one thread at a time.

    Args:
        path: The file; it is made if there is none.
        program: Fingerprint of what is asked, in hex.
        says: The same in words.

    Attributes:
        recorded: How many items have a record.

    Raises:
        Conflict: Another process has it open.
        InvalidOption: It is the journal of something else, or none, or it is damaged before its end.
        StoreError: It cannot be read or written.
    """

    def __init__(self, path: Path, program: str, says: dict[str, Any]) -> None:
        self.path = path
        self.recorded = 0
        self._at = array("q")
        self._reader: BinaryIO | None = None
        try:
            self._file: BinaryIO = path.open("a+b", buffering=0)
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go of with the file
            self._end = self._read(program, says)
        except BaseException as error:
            self.close()
            if isinstance(error, BlockingIOError):
                raise Conflict(
                    f"another batch is writing the journal {path.name}; wait for it, or name another one",
                    details={"option": "journal"},
                ) from None
            if isinstance(error, OSError):
                raise _unusable(path, error) from error
            raise

    def _read(self, program: str, says: dict[str, Any]) -> int:
        self._file.seek(0)
        if os.fstat(self._file.fileno()).st_size == 0:
            self._write(_line(Header(FORMAT, program, says)))
            return self._file.seek(0, os.SEEK_END)
        end, known = 0, False
        for number, (at, line, whole) in enumerate(_lines(self._file), 1):
            body = _checked(line) if whole else None
            if body is None:
                if at + len(line) < os.fstat(self._file.fileno()).st_size:
                    raise InvalidOption(
                        f"the journal {self.path.name} is damaged in line {number}; restore it, or name "
                        "another one",
                        details={"option": "journal", "line": number},
                    )
                begun = _line(Header(FORMAT, program, says))
                if not known and not begun.startswith(line):
                    raise _no_journal(self.path)
                os.ftruncate(self._file.fileno(), at)  # written when its process was killed
                if not known:
                    self._write(begun)
                    end = len(begun)
                break
            if not known:
                self._check(body, program, says)
                known = True
            else:
                self._note(msgspec.json.decode(body, type=Record).index, at)
            end = at + len(line)
        self._file.seek(0, os.SEEK_END)
        return end

    def _check(self, body: bytes, program: str, says: dict[str, Any]) -> None:
        try:
            header = msgspec.json.decode(body, type=Header)
        except msgspec.MsgspecError:
            raise _no_journal(self.path) from None
        if header.dspex_journal != FORMAT:
            raise InvalidOption(
                f"the journal {self.path.name} is of format {header.dspex_journal}, and this version reads "
                f"{FORMAT}; name another one",
                details={"option": "journal"},
            )
        if header.program != program:
            differs = sorted(
                name for name in {*header.says, *says} if header.says.get(name) != says.get(name)
            )
            raise InvalidOption(
                f"the journal {self.path.name} is of another batch: {', '.join(differs) or 'its program'} "
                "differs; go on with what it was begun with, or name another journal",
                details={"option": "journal", "differs": differs},
            )

    def _note(self, index: int, at: int) -> None:
        if index >= len(self._at):
            self._at.extend([_NOWHERE] * (index + 1 - len(self._at)))
        self.recorded += self._at[index] == _NOWHERE
        self._at[index] = at

    def has(self, index: int) -> bool:
        """Whether an item has a record."""
        return index < len(self._at) and self._at[index] != _NOWHERE

    def find(self, index: int) -> Record | None:
        """The record of an item; None when there is none."""
        if not self.has(index):
            return None
        if self._reader is None:
            self._reader = self.path.open("rb")
        self._reader.seek(self._at[index])
        body = _checked(self._reader.readline())
        return None if body is None else msgspec.json.decode(body, type=Record)

    def append(self, records: list[Record]) -> None:
        """Write records, and return when they are on disk.

        Raises:
            StoreError: They cannot be written; the journal is as it was.
        """
        lines = [_line(record) for record in records]
        self._write(b"".join(lines))
        for record, line in zip(records, lines, strict=True):
            self._note(record.index, self._end)
            self._end += len(line)

    def _write(self, data: bytes) -> None:
        before = os.fstat(self._file.fileno()).st_size
        try:
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
            os.fdatasync(self._file.fileno())
        except OSError as error:
            os.ftruncate(self._file.fileno(), before)
            raise _unusable(self.path, error) from error

    def close(self) -> None:
        """Let go of it. Safe to repeat."""
        self._file.close()
        if self._reader is not None:
            self._reader.close()


def read(path: Path | str) -> Iterator[Record]:
    """The records of a journal in the order in which they were written, also while it is written.

    Raises:
        InvalidOption: It is no journal.
        OSError: It cannot be read.
    """
    with Path(path).open("rb") as file:
        for number, (_, line, whole) in enumerate(_lines(file)):
            body = _checked(line) if whole else None
            if body is None:
                if number == 0:
                    raise _no_journal(Path(path))
                return
            if number:
                yield msgspec.json.decode(body, type=Record)


def _line(what: Header | Record) -> bytes:
    body = msgspec.json.encode(what)
    return b"%08x %b\n" % (zlib.crc32(body), body)


def _checked(line: bytes) -> bytes | None:
    """What a line says; None when it is not as it was written."""
    if len(line) < 10 or line[8:9] != b" " or not line.endswith(b"\n"):
        return None
    body = line[9:-1]
    return body if line[:8] == b"%08x" % zlib.crc32(body) else None


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes, bool]]:
    """Lines with their places, and whether each is whole."""
    at = 0
    # Through a buffer of its own, as the file is written unbuffered.
    with os.fdopen(os.dup(file.fileno()), "rb") as reader:
        reader.seek(0)
        for line in reader:
            yield at, line, line.endswith(b"\n")
            at += len(line)


def _no_journal(path: Path) -> InvalidOption:
    return InvalidOption(
        f"{path.name} is no journal of a batch; name another file, and it is made",
        details={"option": "journal"},
    )


def _unusable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"the journal {path.name} cannot be used: {error.strerror}; nothing that it has is lost, and the "
        "same call goes on from there",
        details={"option": "journal"},
    )
