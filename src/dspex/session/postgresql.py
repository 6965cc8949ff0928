"""PostgreSQL through asyncpg, on the runtime's loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from dspex.errors import InvalidOption
from dspex.session.faults import store_error
from dspex.session.place import Place
from dspex.session.schema import create

T = TypeVar("T")
_CONNECTIONS = 8


class Postgresql:
    """A database that other processes may have open too.

    Args:
        place: Where it is.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        try:
            self._engine = create_async_engine(
                place.url, hide_parameters=True, pool_size=_CONNECTIONS, max_overflow=0, pool_pre_ping=False
            )
        except ImportError as error:
            raise InvalidOption(
                "a store in PostgreSQL needs the extra: pip install 'dspex[postgresql]'",
                details={"option": "store"},
            ) from error

    async def open(self) -> None:
        """See ``Backend``."""
        await self.write(create)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """See ``Backend``."""
        try:
            async with self._engine.begin() as connection:
                return await connection.run_sync(work)
        except (SQLAlchemyError, OSError) as error:
            raise store_error(error, self._place.shown) from None

    async def read(self, work: Callable[[Connection], T]) -> T:
        """See ``Backend``."""
        return await self.write(work)

    async def aclose(self) -> None:
        """See ``Backend``."""
        await self._engine.dispose()
