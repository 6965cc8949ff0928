"""PostgreSQL through asyncpg, on the runtime's loop."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from dspex.errors import InvalidOption, StoreError
from dspex.session.faults import sqlstate, store_error
from dspex.session.place import Place

T = TypeVar("T")
# A call keeps one for a millisecond or two, twice; more would only wait for each other in the server.
_CONNECTIONS = 8
# Seconds to connect, and seconds for all the statements of one work, or to get a connection for it.
_CONNECT = 5.0
_WORK = 10.0
# How often a work is run whose connection was lost, or which the server ended in favour of another one.
_TRIES = 5


class Postgresql:
    """A database that other processes may have open too.

    Args:
        place: Where it is.
        migrating: Whether tables are to be changed, which may take as long as it takes.
    """

    def __init__(self, place: Place, *, migrating: bool = False) -> None:
        self._place = place
        self._limit = None if migrating else _WORK
        self._gone: tuple[type[BaseException], ...] = (SQLAlchemyError, OSError)
        try:
            import asyncpg
        except ImportError as error:
            raise InvalidOption(
                "a store in PostgreSQL needs the extra: pip install 'dspex[postgresql]'",
                details={"option": "store"},
            ) from error
        self._gone += (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
        self._engine = create_async_engine(
            place.url,
            hide_parameters=True,  # values are the callers', and belong in no error's text
            pool_size=_CONNECTIONS,
            max_overflow=0,
            pool_timeout=_WORK,
            connect_args={"timeout": _CONNECT, "server_settings": _settings(self._limit)},
        )
        # One state of the database for all statements of a work, as SQLite has it.
        self._reading = self._engine.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )

    async def open(self) -> None:
        """See ``Backend``."""
        try:
            await self._run(self._engine, _nothing)
        except TypeError:
            raise InvalidOption(
                "the URL of the store has an option behind its ? that asyncpg does not have",
                details={"option": "store"},
            ) from None

    async def write(self, work: Callable[[Connection], T]) -> T:
        """See ``Backend``."""
        return await self._run(self._engine, work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """See ``Backend``."""
        return await self._run(self._reading, work)

    async def aclose(self) -> None:
        """See ``Backend``."""
        with contextlib.suppress(*self._gone):
            async with asyncio.timeout(_CONNECT):
                await self._engine.dispose()

    async def _run(self, engine: AsyncEngine, work: Callable[[Connection], T]) -> T:
        for tried in range(1, _TRIES + 1):
            committing = False
            try:
                async with asyncio.timeout(self._limit), engine.connect() as connection:
                    result = await connection.run_sync(work)
                    committing = True
                    await connection.commit()
                    return result
            except self._gone as error:
                if _is_lost(error) and committing:
                    raise self._unknown() from None
                if tried == _TRIES or not (_is_lost(error) or _is_contended(error)):
                    raise store_error(error, self._place.shown) from None
            if tried > 1:
                await asyncio.sleep(random.uniform(0.0, 0.02 * 2**tried))
        raise AssertionError  # the last try returns or raises

    def _unknown(self) -> StoreError:
        return StoreError(
            f"the store ({self._place.shown}) cannot be used: the server was lost while it wrote, and "
            "whether it has written is not known",
            details={"store": self._place.shown, "cause": "unknown"},
        )


def _settings(limit: float | None) -> dict[str, str]:
    """What the server is told of each connection; times are milliseconds, 0 for none."""
    work = 0 if limit is None else int(limit * 1000)
    return {
        "application_name": "dspex",
        "statement_timeout": str(work),
        "lock_timeout": str(work // 2),
        "idle_in_transaction_session_timeout": str(work * 3),
    }


def _nothing(connection: Connection) -> None:
    """A work that asks nothing, but needs a connection."""
    connection.exec_driver_sql("SELECT 1")


def _is_lost(error: BaseException) -> bool:
    """Whether the connection had gone, as after the server was started again; others may be had."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


def _is_contended(error: BaseException) -> bool:
    """Whether the server took the work back, because of what others did; it may be run again."""
    state: Any = sqlstate(error)
    return state in {"40001", "40P01"}
