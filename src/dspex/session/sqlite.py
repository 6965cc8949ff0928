"""SQLite, in a file or in the memory of this process."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool, Pool, StaticPool

from dspex.errors import StoreError
from dspex.session.faults import store_error
from dspex.session.place import Place
from dspex.session.works import Works

T = TypeVar("T")
# Seconds that another process may hold the database before ``store_error``.
_LOCKED = 5.0
# Bytes to which the log of what was written shrinks again.
_LOG = 64 * 1024 * 1024
# The first with ``RETURNING``.
_OLDEST = (3, 35, 0)

_open: weakref.WeakSet[Sqlite] = weakref.WeakSet()


class Sqlite:
    """A file, or the memory of this process.

    Args:
        place: Where it is.
        migrating: Whether tables are to be changed, which must not take rows of others along.
    """

    def __init__(self, place: Place, *, migrating: bool = False) -> None:
        self._place = place
        self._migrating = migrating
        self._stamp: tuple[int, int] | None = None
        poolclass: type[Pool] = StaticPool if place.path is None else NullPool
        # Values are the callers', and belong in no error's text.
        self._engine = create_engine(
            "sqlite://", creator=self._connect, poolclass=poolclass, hide_parameters=True
        )
        self._writer = self._works(self._engine, "BEGIN IMMEDIATE")
        # In memory there is one connection, so what reads waits its turn among what writes.
        self._reader = self._writer if place.path is None else self._works(self._engine, "BEGIN")

    def _works(self, engine: Engine, begin: str) -> Works:
        return Works(engine.connect, begin, self._check, self._fault, self._place.shown)

    async def open(self) -> None:
        """See ``Backend``."""
        if sqlite3.sqlite_version_info < _OLDEST:
            raise StoreError(
                f"SQLite {sqlite3.sqlite_version} is too old; this Python needs one of 3.35 or later",
                details={"store": self._place.shown, "cause": "version"},
                retryable=False,
            )
        _open.add(self)
        self._writer.start()
        if self._reader is not self._writer:
            self._reader.start()
        await self._writer.run(_nothing)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """See ``Backend``."""
        return await self._writer.run(work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """See ``Backend``."""
        return await self._reader.run(work)

    async def aclose(self) -> None:
        """See ``Backend``."""
        await self._reader.stop()
        await self._writer.stop()
        self._engine.dispose()
        _open.discard(self)

    def abandon(self) -> None:
        """Leave it alone in a process that was forked: it is the first one's."""
        self._writer.abandon()
        self._reader.abandon()

    # On the threads

    def _check(self) -> None:
        path = self._place.path
        if path is None:
            return
        if self._stamp is None:
            _make_file(path)
            self._stamp = _stamp(path)
        elif _stamp(path) != self._stamp:
            raise StoreError(
                f"the store ({self._place.shown}) is not the file any more that was opened: it was deleted "
                "or replaced. Put it back, or open another runtime",
                details={"store": self._place.shown, "cause": "replaced"},
                retryable=False,
            )

    def _fault(self, error: BaseException) -> BaseException:
        if isinstance(error, SQLAlchemyError | OSError | sqlite3.Error):
            return store_error(error, self._place.shown)
        return error

    def _connect(self) -> sqlite3.Connection:
        path = self._place.path
        # It is never made here: where it was deleted, another one would hide that.
        where = ":memory:" if path is None else f"file:{quote(str(path))}?mode=rw"
        # Transactions are begun by the thread that asks, not by the driver.
        connection = sqlite3.connect(
            where, uri=path is not None, timeout=_LOCKED, isolation_level=None, check_same_thread=False,
            cached_statements=256,
        )  # fmt: skip
        try:
            if path is not None:
                _keep_log(connection)
            for setting, value in self._settings():
                connection.execute(f"PRAGMA {setting} = {value}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _settings(self) -> list[tuple[str, Any]]:
        return [
            # With them, a table that is made anew would take the rows of those that refer to it along.
            ("foreign_keys", "OFF" if self._migrating else "ON"),
            # A crash of the process loses nothing; one of the machine may lose the last commits.
            ("synchronous", "NORMAL"),
            # What is deleted is gone from the file, and not only from the tables.
            ("secure_delete", "ON"),
            ("temp_store", "MEMORY"),  # there may be nowhere to write beside it
            ("cache_size", -16_384),  # KiB
            ("journal_size_limit", _LOG),
        ]


def _nothing(_: Connection) -> None:
    """A work that asks nothing, but needs the database open."""


def _keep_log(connection: sqlite3.Connection) -> None:
    """Have it write to a log first (WAL), so that what reads and what writes do not wait for each other."""
    end = time.monotonic() + _LOCKED
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # Two processes that do this at once: SQLite does not wait here by itself.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.01)
        else:
            return


def _make_file(path: Path) -> None:
    """The file and its directory, where they are missing. It holds customers' prompts."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        told = path.stat()
    except OSError:
        return None
    return told.st_dev, told.st_ino


def _abandon_all() -> None:
    for database in list(_open):
        database.abandon()


os.register_at_fork(after_in_child=_abandon_all)
