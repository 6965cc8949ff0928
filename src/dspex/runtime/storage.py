"""The runtime's store: opened with it when it outlives it, else when a session first needs it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dspex.errors import PoolClosed
from dspex.session.reference import resolved

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from dspex.session.store import Store

T = TypeVar("T")


class Storage:
    """The way to the store. Lives on the runtime's loop.

    Args:
        where: ``"memory"``, a file, a database URL, or a reference to one.

    Attributes:
        owner: Who this runtime is, among all that have the store open.
    """

    def __init__(self, where: str | Path) -> None:
        self.owner = secrets.token_hex(8)
        self._where = where
        self._opening: asyncio.Task[Store] | None = None
        self._closed = False

    @property
    def outlives(self) -> bool:
        """Whether what is stored is there after this process; as far as can be told before it is open."""
        opening = self._opening
        if opening is not None and opening.done() and not _failed(opening):
            return opening.result().place.outlives
        return self._where != "memory"

    async def open(self) -> Store:
        """The store, connected.

        Raises:
            InvalidOption: It is none.
            StoreError: It cannot be used.
        """
        if self._closed:
            raise PoolClosed("this runtime is closed, and its store with it")
        if self._opening is None or _failed(self._opening):
            self._opening = asyncio.create_task(self._open())
        return await asyncio.shield(self._opening)

    async def _open(self) -> Store:
        # SQLAlchemy takes half a second to import, which no loop should stand still for.
        store = await asyncio.to_thread(_made, await resolved(self._where))
        await store.open()
        return store

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run statements in a transaction; see ``Store.write``."""
        return await (await self.open()).write(work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run statements that change nothing; see ``Store.read``."""
        return await (await self.open()).read(work)

    async def aclose(self) -> None:
        """Let go of it."""
        self._closed = True
        if self._opening is not None:
            await asyncio.wait([self._opening])
            if not _failed(self._opening):
                await self._opening.result().aclose()


def _failed(opening: asyncio.Task[Store]) -> bool:
    return opening.done() and (opening.cancelled() or opening.exception() is not None)


def _made(where: str | Path) -> Store:
    from dspex.session.place import place_of
    from dspex.session.store import Store

    return Store(place_of(where))
