"""What the parts of a session share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from dspex.runtime.steps import Steps

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from dspex.adapter.adapter import DSPyAdapter

T = TypeVar("T")


class Base:
    """A session by its id; nothing of it is held here.

    Args:
        adapter: The adapter that gave it, with which its calls are made.
        tenant: Whose it is; empty for none.
        session_id: Its id.

    Attributes:
        id: Its id.
    """

    def __init__(self, adapter: DSPyAdapter, tenant: str, session_id: str) -> None:
        self.id = session_id
        self._adapter = adapter
        self._tenant = tenant

    @property
    def tenant(self) -> str | None:
        """Whose it is; None when nobody said."""
        return self._tenant or None

    def __repr__(self) -> str:
        whose = f", tenant={self._tenant!r}" if self._tenant else ""
        return f"{type(self).__name__}({self.id!r}{whose})"

    def _take(self, taken: Steps[T], twin: str) -> T:
        return self._adapter._take(taken, twin)

    async def _atake(self, taken: Steps[T]) -> T:
        return await self._adapter._atake(taken)

    async def _write(self, work: Callable[[Connection], T]) -> T:
        return await self._adapter._open.core.sessions.write(work)

    async def _read(self, work: Callable[[Connection], T]) -> T:
        return await self._adapter._open.core.sessions.read(work)
