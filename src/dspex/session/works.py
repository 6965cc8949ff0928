"""A thread that runs what waits, together in one transaction, and commits it once.

A statement through an asynchronous driver is a journey to a thread and back; here a whole group of calls
makes one, and shares one commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection

from dspex.errors import StoreError

T = TypeVar("T")
# Works that are committed together, at most.
_GROUP = 256

_Work = tuple[Callable[[Connection], Any], "asyncio.Future[Any]"]


class _Failed(NamedTuple):
    error: BaseException


class Works:
    """Functions of a connection, run in the order in which they came. Used on one event loop.

    A work that fails costs only itself. When the transaction cannot be begun, all of its group fail; when it
    cannot be committed, each is tried alone.

    Args:
        connect: Opens the database, on the thread.
        begin: The statement that begins a transaction.
        check: Raises when the database must not be used.
        fault: The error that callers get for one of the database's.
        shown: The store, as it may be shown.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        begin: str,
        check: Callable[[], None],
        fault: Callable[[BaseException], BaseException],
        shown: str,
    ) -> None:
        self._connect = connect
        self._begin = begin
        self._check = check
        self._fault = fault
        self._shown = shown
        self._waiting: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._connection: Connection | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = False

    def start(self) -> None:
        """Begin; on the loop that gets the results."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._serve, name="dspex-store", daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Have it done, and wait for its commit. When whoever waits is cancelled, it may be done or not."""
        if self._stopped or self._loop is None:
            raise StoreError(
                f"the store ({self._shown}) is closed", details={"store": self._shown, "cause": "closed"}
            )
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting.put((work, future))
        return await future

    async def stop(self) -> None:
        """Finish what waits, and end."""
        self._stopped = True
        if self._thread is not None:
            self._waiting.put(None)
            # Looked at again and again: at the interpreter's exit there are no new threads to join in.
            while self._thread.is_alive():  # noqa: ASYNC110 (a thread sets no event of a loop)
                await asyncio.sleep(0.002)

    def abandon(self) -> None:
        """In a process that was forked: forget the thread, which was not brought along.

        The connection must not even be closed there, which may write, so it is never let go of.
        """
        self._stopped = True
        self._thread = None
        if self._connection is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))

    # On the thread

    def _serve(self) -> None:
        while True:
            group, last = self._next()
            if group:
                self._deliver(group, self._done([work for work, _ in group]))
            if last:
                break
        self._drop()

    def _next(self) -> tuple[list[_Work], bool]:
        """Those that wait, without those that nobody waits for any more; and whether they are the last."""
        taken = [self._waiting.get()]
        with contextlib.suppress(queue.Empty):
            while taken[-1] is not None and len(taken) < _GROUP:
                taken.append(self._waiting.get_nowait())
        group = [work for work in taken if work is not None and not work[1].cancelled()]
        return group, taken[-1] is None

    def _done(self, works: list[Callable[[Connection], Any]]) -> list[Any]:
        """What each gave, or how it failed."""
        try:
            connection, driver = self._begun()
        except BaseException as error:  # noqa: BLE001 (whoever waits is told)
            self._drop()
            return [_Failed(self._fault(error)) for _ in works]
        try:
            alone = len(works) == 1
            results = [self._one(work, connection, driver, alone=alone) for work in works]
            _commit(connection, driver)
        except BaseException as error:  # noqa: BLE001 (whoever waits is told)
            self._undo(connection, driver)
            if len(works) == 1:
                return [_Failed(self._fault(error))]
            # A full disk, for one, takes the whole transaction back. Another work may be smaller.
            return [self._done([work])[0] for work in works]
        return results

    def _one(
        self,
        work: Callable[[Connection], Any],
        connection: Connection,
        driver: sqlite3.Connection,
        *,
        alone: bool,
    ) -> Any:
        if alone:
            return work(connection)
        driver.execute("SAVEPOINT one")
        try:
            result = work(connection)
        except BaseException as error:  # noqa: BLE001 (whoever waits is told)
            driver.execute("ROLLBACK TO one")
            result = _Failed(self._fault(error))
        driver.execute("RELEASE one")
        return result

    def _begun(self) -> tuple[Connection, sqlite3.Connection]:
        self._check()
        if self._connection is None:
            self._connection = self._connect()
        driver = self._connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        driver.execute(self._begin)
        return self._connection, driver

    def _undo(self, connection: Connection, driver: sqlite3.Connection) -> None:
        try:
            connection.rollback()
            driver.rollback()
        except BaseException:  # noqa: BLE001 (what made this necessary is told)
            self._drop()

    def _drop(self) -> None:
        """Have the next work open the database anew."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()

    def _deliver(self, group: list[_Work], results: list[Any]) -> None:
        def told() -> None:
            for (_, future), result in zip(group, results, strict=True):
                if future.done():  # whoever waited has gone away
                    continue
                if isinstance(result, _Failed):
                    future.set_exception(result.error)
                else:
                    future.set_result(result)

        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed, nobody waits
            self._loop.call_soon_threadsafe(told)


def _commit(connection: Connection, driver: sqlite3.Connection) -> None:
    connection.commit()
    if driver.in_transaction:  # nothing was asked through SQLAlchemy
        driver.commit()
