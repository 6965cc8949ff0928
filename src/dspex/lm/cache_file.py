"""Answers that outlive the process, in a SQLite file beside which nothing else is needed.

What goes wrong with the file costs an answer that has to be asked for again, and no call: it is logged, and
the file is left alone for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from dspex.lm.cache import LARGEST, Entry

T = TypeVar("T")
_log = logging.getLogger("dspex.cache")
_FORMAT = 2
# Seconds for which a file that failed is left alone.
_REST = 30.0
# Seconds that another process may have it locked.
_LOCKED = 1.0
# Seconds after which opening is tried again.
_AGAIN = 0.01
# Seconds that a call waits for the file: a disk may hang.
_PATIENCE = 5.0
# Answers that wait to be written; more are not kept.
_WAITING = 1000
# A look at the size after so many answers, or after as much as the largest may have.
_LOOK = 64
_CHECK = 16  # bytes of an answer's checksum
_PRIVATE = 0o600
_SCHEMA = """
CREATE TABLE IF NOT EXISTS salt (value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS answers (
    key BLOB PRIMARY KEY, value BLOB NOT NULL, model TEXT, until REAL NOT NULL, used REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS answers_used ON answers (used);
"""
_TABLES = {"salt", "answers"}


class CacheFile:
    """The answers in a file; see ``cache.Kept``. Several processes may have it open.

    Args:
        path: The file; it is made if there is none, readable to its owner alone.
        room: Bytes that the answers may take together.
        ttl: Seconds for which one is good.
    """

    def __init__(self, path: Path, room: int, ttl: float) -> None:
        self._path = path
        self._room = room
        self._ttl = ttl
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dspex-cache")
        self._waiting = threading.BoundedSemaphore(_WAITING)
        self._connection: sqlite3.Connection | None = None
        self._rests_until = 0.0
        self._written = self._written_bytes = 0

    async def salt(self) -> bytes | None:
        """What keys are made with: kept in the file, so that other processes have the same."""
        return await self._run(self._salt)

    async def get(self, key: bytes) -> tuple[Entry, float] | None:
        """An answer, if it is there and still good, and for how many seconds it is."""
        return await self._run(lambda connection: self._get(connection, key))

    def put(self, key: bytes, entry: Entry) -> bool:
        """Keep an answer, soon, if it is not too large; where too many wait it is not kept."""
        if len(entry.value) > self._room // LARGEST or not self._waiting.acquire(blocking=False):
            return False
        with contextlib.suppress(RuntimeError):  # it was let go of
            self._thread.submit(self._put_waiting, key, entry)
        return True

    async def aclose(self) -> None:
        """Keep what waits, and let go of the file."""
        closing = asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)
        await asyncio.wait([closing], timeout=_PATIENCE)

    # On the thread

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        if time.monotonic() < self._rests_until:
            return None
        try:
            async with asyncio.timeout(_PATIENCE):
                return await asyncio.get_running_loop().run_in_executor(self._thread, self._try, work)
        except TimeoutError:
            self._rest("it does not answer")
            return None

    def _try(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        if time.monotonic() < self._rests_until:
            return None
        try:
            if self._connection is None:
                self._connection = self._open()
            return work(self._connection)
        except (sqlite3.Error, OSError) as error:
            self._rest(error)
            self._close()
            return None

    def _rest(self, why: object) -> None:
        self._rests_until = time.monotonic() + _REST
        _log.warning("the cache %s is left alone for %g s: %s", self._path, _REST, why)

    def _open(self) -> sqlite3.Connection:
        end = time.monotonic() + _LOCKED
        while True:
            try:
                return self._opened()
            except sqlite3.OperationalError as error:
                # SQLite itself does not wait for who turns a new file to WAL at the same moment.
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                    raise
                time.sleep(_AGAIN)

    def _opened(self) -> sqlite3.Connection:
        # Made here, so that nobody else can read it, not even for a moment.
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, _PRIVATE))
        connection = sqlite3.connect(self._path, timeout=_LOCKED, isolation_level=None)
        try:
            _check(connection)
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=OFF")  # it is a cache
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={_FORMAT}; COMMIT;")
        except BaseException:
            connection.close()
            raise
        return connection

    def _salt(self, connection: sqlite3.Connection) -> bytes:
        connection.execute(
            "INSERT INTO salt SELECT ? WHERE NOT EXISTS (SELECT 1 FROM salt)", (secrets.token_bytes(32),)
        )
        salt: bytes = connection.execute("SELECT value FROM salt").fetchone()[0]
        return salt

    def _get(self, connection: sqlite3.Connection, key: bytes) -> tuple[Entry, float] | None:
        now = time.time()
        found = connection.execute(
            "SELECT value, model, until FROM answers WHERE key = ? AND until > ? AND until <= ?",
            (key, now, now + self._ttl),  # also of clocks that were put back, and of a shorter ttl
        ).fetchone()
        if found is None:
            return None
        stored, model, until = found
        value = stored[_CHECK:] if isinstance(stored, bytes) else b""
        if stored != _checked(key, value, model):  # SQLite does not notice what a disk has changed
            connection.execute("DELETE FROM answers WHERE key = ?", (key,))
            _log.warning("an answer in the cache %s was damaged and is no more", self._path)
            return None
        with contextlib.suppress(sqlite3.OperationalError):  # another process writes: it is no less good
            connection.execute("UPDATE answers SET used = ? WHERE key = ?", (now, key))
        return Entry(value, model), until - now

    def _put_waiting(self, key: bytes, entry: Entry) -> None:
        self._waiting.release()
        self._try(lambda connection: self._put(connection, key, entry))

    def _put(self, connection: sqlite3.Connection, key: bytes, entry: Entry) -> None:
        now = time.time()
        connection.execute(
            "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)",
            (key, _checked(key, entry.value, entry.model), entry.model, now + self._ttl, now),
        )
        self._written += 1
        self._written_bytes += len(entry.value)
        if self._written % _LOOK == 1 or self._written_bytes > self._room // LARGEST:
            self._written_bytes = 0
            self._make_room(connection, now)

    def _make_room(self, connection: sqlite3.Connection, now: float) -> None:
        connection.execute("DELETE FROM answers WHERE until <= ?", (now,))
        while True:
            count, taken = connection.execute("SELECT count(*), sum(length(value)) FROM answers").fetchone()
            if not count or taken <= self._room:
                break
            connection.execute(
                "DELETE FROM answers WHERE key IN (SELECT key FROM answers ORDER BY used LIMIT ?)",
                (max(1, count // 8),),
            )
        # It frees a page at each step, and ``execute`` takes only one.
        connection.executescript("PRAGMA incremental_vacuum")

    def _close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


def _checked(key: bytes, value: bytes, model: str | None) -> bytes:
    """A value as it is stored, with what tells whether it still is what it was."""
    said = msgspec.msgpack.encode((key, value, model))
    return hashlib.blake2b(said, digest_size=_CHECK).digest() + value


def _check(connection: sqlite3.Connection) -> None:
    """Leave alone what is something else."""
    connection.execute("BEGIN")  # another process may be making it just now
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.execute("COMMIT")
    if tables and (version != _FORMAT or tables != _TABLES):
        raise sqlite3.DatabaseError("it is no cache of this version; name another file")
