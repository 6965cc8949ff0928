"""What the parts of a session share."""

from __future__ import annotations

from typing import TypeVar

from dspex.adapter.base import Base as Adapter
from dspex.runtime.steps import Steps

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

    def __init__(self, adapter: Adapter, tenant: str, session_id: str) -> None:
        self.id = session_id
        self._adapter = adapter
        self._tenant = tenant

    def _take(self, taken: Steps[T], twin: str) -> T:
        return self._adapter._take(taken, twin)

    async def _atake(self, taken: Steps[T]) -> T:
        return await self._adapter._atake(taken)
