"""SQLite on a thread of its own: what waits is committed together.

A statement through an asynchronous driver is a journey to a thread and back; here a whole group of calls
makes one, and shares one commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from dspex.errors import StoreError
from dspex.session.faults import store_error
from dspex.session.place import Place
from dspex.session.schema import prepare

T = TypeVar("T")
# Works that are committed together, at most.
_GROUP = 256
# Seconds that another process may hold the database before ``store_error``.
_LOCKED = 5.0

_Work = tuple[Callable[[Connection], Any], "asyncio.Future[Any]"]


class Sqlite:
    """A file, or the memory of this process.

    Args:
        place: Where it is.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._engine = _engine(place)
        self._writer = _Thread(self._engine, self._place, "IMMEDIATE")
        # In memory there is one connection, so what reads waits its turn among what writes.
        self._reader = self._writer if place.path is None else _Thread(self._engine, self._place, "DEFERRED")

    async def open(self) -> None:
        """See ``Backend``."""
        try:
            await asyncio.to_thread(self._prepare)
        except (SQLAlchemyError, OSError) as error:
            raise store_error(error, self._place.shown) from None
        self._writer.start()
        if self._reader is not self._writer:
            self._reader.start()

    def _prepare(self) -> None:
        if self._place.path is not None:
            _make_file(self._place.path)
        prepare(self._engine)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """See ``Backend``."""
        return await self._writer.run(work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """See ``Backend``."""
        return await self._reader.run(work)

    async def aclose(self) -> None:
        """See ``Backend``."""
        for thread in {self._writer, self._reader}:
            await asyncio.to_thread(thread.stop)
        self._engine.dispose()


class _Thread:
    """Runs works, those that wait together in one transaction."""

    def __init__(self, engine: Engine, place: Place, begin: str) -> None:
        self._engine = engine.execution_options(dspex_begin=begin)
        self._place = place
        self._waiting: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stamp: tuple[int, int] | None = None
        self._stopped = False

    def start(self) -> None:
        """Begin; on the loop that gets the results."""
        self._loop = asyncio.get_running_loop()
        self._stamp = _stamp(self._place.path)
        self._thread = threading.Thread(target=self._serve, name="dspex-store", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish what waits, and end."""
        self._stopped = True
        self._waiting.put(None)
        if self._thread is not None:
            self._thread.join()

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Have it done, and wait for its commit."""
        if self._stopped or self._loop is None:
            raise StoreError(f"the store ({self._place.shown}) is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting.put((work, future))
        return await future

    def _serve(self) -> None:
        while True:
            first = self._waiting.get()
            if first is None:
                return
            group, last = [first], False
            with contextlib.suppress(queue.Empty):
                while len(group) < _GROUP:
                    another = self._waiting.get_nowait()
                    if another is None:
                        last = True
                        break
                    group.append(another)
            self._deliver(group, self._done(group))
            if last:
                return

    def _done(self, group: list[_Work]) -> list[Any]:
        """What each work of a group gave, or its error."""
        try:
            return self._commit(group)
        except BaseException as error:  # noqa: BLE001 (whoever waits is told)
            if len(group) == 1:
                return [self._fault(error)]
        # One of them is at fault, and none is written: each for itself.
        return [self._done([work])[0] for work in group]

    def _commit(self, group: list[_Work]) -> list[Any]:
        if _stamp(self._place.path) != self._stamp:
            raise StoreError(
                f"the store ({self._place.shown}) is not the file any more that was opened; it was deleted "
                "or replaced. Open another runtime",
                details={"store": self._place.shown, "cause": "replaced"},
            )
        with self._engine.begin() as connection:
            return [work(connection) for work, _ in group]

    def _fault(self, error: BaseException) -> BaseException:
        if isinstance(error, SQLAlchemyError | OSError):
            return store_error(error, self._place.shown)
        return error

    def _deliver(self, group: list[_Work], results: list[Any]) -> None:
        def told() -> None:
            for (_, future), result in zip(group, results, strict=True):
                if future.done():  # whoever waited has gone away
                    continue
                if isinstance(result, BaseException):
                    future.set_exception(result)
                else:
                    future.set_result(result)

        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed, nobody waits
            self._loop.call_soon_threadsafe(told)


def _make_file(path: Path) -> None:
    """The file and its directory, where they are missing. It holds customers' prompts."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _stamp(path: Path | None) -> tuple[int, int] | None:
    if path is None:
        return None
    try:
        told = path.stat()
    except OSError:
        return None
    return told.st_dev, told.st_ino


def _engine(place: Place) -> Engine:
    # Values are the callers', and belong in no error's text.
    options: dict[str, Any] = {"hide_parameters": True, "connect_args": {"check_same_thread": False}}
    if place.path is None:
        options["poolclass"] = StaticPool
    else:
        options["connect_args"]["timeout"] = _LOCKED
    engine = create_engine(place.url, **options)

    @event.listens_for(engine, "connect")
    def prepared(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not by the driver
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys = ON")
        if place.path is not None:
            cursor.execute("PRAGMA journal_mode = WAL")
            # A crash of the process loses nothing; one of the machine may lose the last commits.
            cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        mode = connection.get_execution_options().get("dspex_begin", "DEFERRED")
        connection.exec_driver_sql(f"BEGIN {mode}")

    return engine
