"""The settings file: where it is looked for, whether it is trusted, and what it says."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

from dspex.errors import InvalidOption
from dspex.settings.places import lines
from dspex.settings.shape import Path

_OWN = "dspex.toml"
_PROJECT = "pyproject.toml"
_PREFIX = {_PROJECT: ("tool", "dspex")}
_LINE = re.compile(r" \(at line (\d+), column \d+\)$")


@dataclass(frozen=True)
class Document:
    """A settings file that was read.

    Attributes:
        file: Its path.
        table: What it says.
        lines: The line of each key, counted from 1.
    """

    file: File
    table: Mapping[str, Any]
    lines: Mapping[Path, int]

    def line(self, path: Path) -> int | None:
        """The line of an option, or of the innermost table of it that is written down."""
        found = (self.lines.get(path[:length]) for length in range(len(path), 0, -1))
        return next((line for line in found if line is not None), None)


def shown(file: File) -> str:
    """The path for people: from the working directory on, if the file is below it."""
    try:
        return str(file.relative_to(File.cwd()))
    except (ValueError, OSError):
        return str(file)


def refused(file: File, line: int | None, wrong: str, option: str = "file") -> InvalidOption:
    """The error for what is wrong at a line of a file."""
    details: dict[str, Any] = {"option": option, "file": str(file)}
    if line is not None:
        details["line"] = line
    place = shown(file) if line is None else f"{shown(file)}:{line}"
    return InvalidOption(f"{place}: {wrong}", details=details)


def named(file: File) -> Document:
    """Read the file that somebody named, wherever it is and whoever owns it.

    Raises:
        InvalidOption: It cannot be read, is no TOML, or a ``pyproject.toml`` without ``[tool.dspex]``.
    """
    document = _parse(file, _content(file)[0])
    if document is None:
        raise refused(file, None, "this file has no table [tool.dspex]")
    return document


def search() -> tuple[Document | None, dict[File, str]]:
    """The settings file of the working directory, or of the nearest directory above it that has one.

    The search ends at a directory with ``.git`` in it. A file that another user may have written is passed
    over: it could name the interpreter that the workers run.

    Returns:
        The file, if there is one, and those passed over, each with a sentence that says why.

    Raises:
        InvalidOption: It cannot be read, or is no TOML.
    """
    passed: dict[File, str] = {}
    try:
        start = File.cwd()
    except OSError:  # it was deleted
        return None, passed
    for folder in (start, *start.parents):
        for name in (_OWN, _PROJECT):
            file = folder / name
            if not os.path.lexists(file):
                continue
            # Asked before it is opened, so that nobody else's file can be in the way, and of what was read.
            content, why = b"", _distrust(file, _facts(file))
            if why is None:
                content, facts = _content(file)
                why = _distrust(file, facts)
            if why is not None and (name == _OWN or _speaks_of_us(file)):
                passed[file] = f"{file} is not used: {why}; name it with DSPEX_SETTINGS if it is yours"
            elif why is None and (document := _parse(file, content)):
                return document, passed
        if os.path.lexists(folder / ".git"):
            break
    return None, passed


def _content(file: File) -> tuple[bytes, os.stat_result]:
    """The bytes of a file, and what the system says of it: of the very one that was read."""
    try:
        # Without waiting: a pipe by that name would hold up the program for ever.
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                what = "a directory" if stat.S_ISDIR(facts.st_mode) else "no ordinary file"
                raise refused(file, None, f"this is {what}; settings are read from a file")
            with os.fdopen(descriptor, "rb", closefd=False) as stream:
                return stream.read(), facts
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise refused(file, None, f"the settings file cannot be read: {why}") from None


def _facts(file: File) -> os.stat_result:
    try:
        return file.stat()
    except OSError:  # a link that leads nowhere
        return file.lstat()


def _distrust(file: File, facts: os.stat_result) -> str | None:
    """Why a file that was only found is not to be used; None if it may be."""
    if facts.st_mode & stat.S_IWOTH and not stat.S_ISLNK(facts.st_mode):
        return "everybody on this machine may write to it"
    owners = {facts.st_uid, file.lstat().st_uid}
    return None if owners <= {0, os.geteuid()} else "it belongs to another user"


def _speaks_of_us(project: File) -> bool:
    # On some mounts everybody may write to everything: a file that says nothing to us is no news.
    try:
        return b"dspex" in _content(project)[0]
    except InvalidOption:
        return False


def _parse(file: File, content: bytes) -> Document | None:
    """What a file says; None for a ``pyproject.toml`` without a table of ours."""
    try:
        # Some editors put a byte order mark in front, which tomllib takes for a key.
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise refused(file, line, "this is not UTF-8 text") from None
    try:
        table: Any = tomllib.loads(text)
        where = lines(text)
    except RecursionError:
        raise refused(file, None, "values are nested too deeply") from None
    except ValueError as error:
        message = str(error)
        found = _LINE.search(message)
        line = int(found[1]) if found else text.rstrip("\n").count("\n") + 1
        reason = _LINE.sub("", message).replace(" (at end of document)", ", and the file ends")
        raise refused(file, line, f"not valid TOML: {reason}") from None
    prefix = _PREFIX.get(file.name, ())
    for name in prefix:
        if name not in table:
            return None
        table = table[name]
        if not isinstance(table, dict):
            raise refused(file, where.get(prefix), f"{'.'.join(prefix)} has to be a table")
    inside = {path[len(prefix) :]: line for path, line in where.items() if path[: len(prefix)] == prefix}
    return Document(file, table, inside)
