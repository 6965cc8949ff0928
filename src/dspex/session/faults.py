"""What goes wrong in a database, as one error of ours: no statement, no value and no password in it."""

from __future__ import annotations

import errno
import sqlite3
from typing import NamedTuple

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection

from dspex.errors import StoreError


class _Cause(NamedTuple):
    name: str  # for programs
    text: str  # for people, with what to do
    passing: bool = True  # whether the same may work later without anybody's doing


_LOCKED = _Cause(
    "locked", "another process has held it for too long; try again, and see which one has it open"
)
_FULL = _Cause("full", "there is no room left; make some, and calls go on")
_READ_ONLY = _Cause(
    "read_only", "it may not be written; let this user write the file and its directory", False
)
_MISSING = _Cause("missing", "it cannot be opened; see that its directory is there and may be written", False)
_FOREIGN = _Cause("not_a_database", "the file is no SQLite database; name another one", False)
_DAMAGED = _Cause("damaged", "the database is damaged; put a backup in its place", False)
_DISK = _Cause("disk", "the disk cannot be read or written")
_UNREACHABLE = _Cause("unreachable", "the server does not answer; calls go on when it does")
_LATE = _Cause("late", "it did not answer in time; calls go on when it does")
_REFUSED = _Cause(
    "refused", "the server refuses this user; see its name, its password and pg_hba.conf", False
)
_NO_DATABASE = _Cause("missing", "the server has no such database; make it: CREATE DATABASE", False)
_CROWDED = _Cause("connections", "the server takes no more connections; raise its max_connections")
_NOT_ALLOWED = _Cause(
    "not_allowed",
    "this user may not do that there; GRANT USAGE, CREATE ON SCHEMA public, or own the tables",
    False,
)
_STANDBY = _Cause("read_only", "the server only lets it be read; is it a standby?")
_CONTENDED = _Cause("contended", "others were changing the same; try again")
_OTHER_TABLES = _Cause("tables", "its tables are not those of this version; see `dspex store status`", False)
_BUSY = _Cause("connections", "all of this runtime's connections are busy; try again")

_OF_SQLITE = {
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_PERM: _READ_ONLY,
    sqlite3.SQLITE_AUTH: _READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: _MISSING,
    sqlite3.SQLITE_NOTADB: _FOREIGN,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_IOERR: _DISK,
}
# By SQLSTATE, or the class that its first two characters are.
_OF_POSTGRESQL = {
    "08": _UNREACHABLE,
    "57P": _UNREACHABLE,
    "28": _REFUSED,
    "3D": _NO_DATABASE,
    "53300": _CROWDED,
    "53": _FULL,
    "25006": _STANDBY,
    "40": _CONTENDED,
    "55P03": _LOCKED,
    "57014": _LATE,
    "42501": _NOT_ALLOWED,
    "42P01": _OTHER_TABLES,
    "42703": _OTHER_TABLES,
    "3F": _NOT_ALLOWED,
}
_OF_SYSTEM = {
    errno.EACCES: _READ_ONLY,
    errno.EPERM: _READ_ONLY,
    errno.EROFS: _READ_ONLY,
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.ENOENT: _MISSING,
    errno.ENOTDIR: _MISSING,
    errno.EEXIST: _MISSING,
    errno.EISDIR: _MISSING,
}


def store_error(error: BaseException, where: str) -> StoreError:
    """The error that a caller gets.

    Args:
        error: What SQLAlchemy, the driver or the system raised.
        where: The store, as it may be shown.
    """
    cause = _cause(error)
    return StoreError(
        f"the store ({where}) cannot be used: {cause.text}",
        details={"store": where, "cause": cause.name},
        retryable=cause.passing,
    )


def sqlstate(error: BaseException) -> str | None:
    """PostgreSQL's code of an error, if it has one."""
    inner = error.orig if isinstance(error, DBAPIError) else error
    state = getattr(inner, "sqlstate", None)
    return state if isinstance(state, str) else None


def _cause(error: BaseException) -> _Cause:
    if isinstance(error, NoConnection):
        return _BUSY
    inner = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    if isinstance(inner, sqlite3.Error):
        return _of_sqlite(inner)
    state = sqlstate(error)
    if state is not None:
        found = (_OF_POSTGRESQL.get(state[:length]) for length in (5, 3, 2))
        return next(
            (cause for cause in found if cause is not None), _Cause(state, f"SQLSTATE {state}", False)
        )
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return _UNREACHABLE
    if isinstance(inner, TimeoutError):
        return _LATE
    if isinstance(inner, ConnectionError):
        return _UNREACHABLE
    if isinstance(inner, OSError):
        text = inner.strerror or type(inner).__name__
        return _OF_SYSTEM.get(inner.errno or 0, _Cause("system", text))
    # Its text may quote a value, so only its class is told.
    name = type(inner).__name__
    return _Cause(name, name, False)


def _of_sqlite(error: sqlite3.Error) -> _Cause:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return _Cause(type(error).__name__, type(error).__name__, False)
    name = error.sqlite_errorname
    return _OF_SQLITE.get(code & 0xFF, _Cause(name, name, False))
