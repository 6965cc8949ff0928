"""The store: one set of statements for SQLite and PostgreSQL.

What is done in it is a function that takes SQLAlchemy's ``Connection``. Such a function is written once;
SQLite runs it on a thread of its own and PostgreSQL on the event loop. It may run more than once before it
counts, so it does nothing but ask the database.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Insert, Table

from dspex.session.place import Place
from dspex.session.schema import prepare

T = TypeVar("T")
Statements = Callable[[Connection], T]


class Backend(Protocol):
    """A database that is open."""

    async def open(self) -> None:
        """Connect.

        Raises:
            StoreError: It cannot be used.
        """

    async def write(self, work: Statements[T]) -> T:
        """Run statements in a transaction."""

    async def read(self, work: Statements[T]) -> T:
        """Run statements that change nothing, and see one state of the database."""

    async def aclose(self) -> None:
        """Let go of it, once what was begun has ended."""


class Store:
    """The database of a runtime. Used on the runtime's loop.

    Args:
        place: Where it is.
        migrating: Whether it is opened to change its tables: then they may be of any version, and nothing is
            limited in time.

    Attributes:
        place: Where it is.
    """

    def __init__(self, place: Place, *, migrating: bool = False) -> None:
        self.place = place
        self._migrating = migrating
        self._backend = _backend(place, migrating=migrating)

    async def open(self) -> None:
        """Connect, and see to it that the tables are those of this version; an empty database gets them.

        Raises:
            InvalidOption: The URL has an option that there is not.
            StoreError: It cannot be used, or ``dspex store upgrade`` has to come first.
        """
        try:
            await self._backend.open()
            if not self._migrating:
                await self._backend.write(lambda connection: prepare(connection, self.place.shown))
        except BaseException:
            await self._backend.aclose()
            raise

    async def write(self, work: Statements[T]) -> T:
        """Run statements in a transaction; when this returns they are committed.

        When whoever waits is cancelled, they may be or not.

        Raises:
            DspexError: What the function raised; nothing of it was written.
            StoreError: The database could not do it.
        """
        return await self._backend.write(work)

    async def read(self, work: Statements[T]) -> T:
        """Run statements that change nothing. What was written before this is seen.

        Raises:
            DspexError: What the function raised.
            StoreError: The database could not do it.
        """
        return await self._backend.read(work)

    async def aclose(self) -> None:
        """Let go of the database, once what was begun has ended."""
        await self._backend.aclose()


def _backend(place: Place, *, migrating: bool) -> Backend:
    if place.is_sqlite:
        from dspex.session.sqlite import Sqlite

        return Sqlite(place, migrating=migrating)
    from dspex.session.postgresql import Postgresql

    return Postgresql(place, migrating=migrating)


def insert(connection: Connection, table: Table) -> Any:
    """An ``INSERT`` that knows ``on_conflict_do_nothing``, which each dialect has its own class for."""
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert as made
    else:
        from sqlalchemy.dialects.postgresql import insert as made  # type: ignore[assignment]
    statement: Insert = made(table)
    return statement
