"""A session's programs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from dspex.adapter.program import Program
from dspex.adapter.session.base import Base
from dspex.runtime.steps import OnLoop, Steps
from dspex.runtime.stored import info_of
from dspex.session.names import check

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from dspex.adapter.session.session import Session
    from dspex.program.document import Document
    from dspex.session.programs import Current, Stored
    from dspex.session.records import ProgramInfo


class Programs(Base):
    """The part of a session that has to do with programs."""

    def create_program(self, signature: Any = None, **how: Any) -> Program:
        """Store a program in this session; see ``adapter.create_program``.

        Raises:
            Refused: Something in it is wrong.
            SessionExpired: The session was not used for longer than its ``ttl``.
            StoreError: The store cannot be used.
            RuntimeError: Called on the runtime's own event loop; await ``acreate_program`` there.
        """
        return self._adapter.create_program(signature, session=cast("Session", self), **how)

    async def acreate_program(self, signature: Any = None, **how: Any) -> Program:
        """``create_program`` for event loops."""
        return await self._adapter.acreate_program(signature, session=cast("Session", self), **how)

    def import_program(self, document: Mapping[str, Any], *, name: str | None = None) -> Program:
        """Store a program that ``program.export()`` gave; see ``adapter.import_program``."""
        return self._adapter.import_program(document, session=cast("Session", self), name=name)

    async def aimport_program(self, document: Mapping[str, Any], *, name: str | None = None) -> Program:
        """``import_program`` for event loops."""
        return await self._adapter.aimport_program(document, session=cast("Session", self), name=name)

    def program(self, name: str, *, tools: Sequence[Any] | None = None) -> Program:
        """A program of this session.

        Args:
            name: Its name, or its id.
            tools: The functions that it calls, by their names, when another process made it.

        Raises:
            UnknownProgram: There is none.
            SessionExpired: The session was not used for longer than its ``ttl``.
            StoreError: The store cannot be used.
            RuntimeError: Called on the runtime's own event loop; await ``aprogram`` there.
        """
        return self._take(self._program(name, tools), "aprogram")

    async def aprogram(self, name: str, *, tools: Sequence[Any] | None = None) -> Program:
        """``program`` for event loops."""
        return await self._atake(self._program(name, tools))

    def programs(self) -> list[ProgramInfo]:
        """The programs of this session, the oldest first.

        Raises:
            UnknownSession: The session was deleted.
            SessionExpired: It was not used for longer than its ``ttl``.
            StoreError: The store cannot be used.
            RuntimeError: Called on the runtime's own event loop; await ``aprograms`` there.
        """
        return self._take(self._programs(), "aprograms")

    async def aprograms(self) -> list[ProgramInfo]:
        """``programs`` for event loops."""
        return await self._atake(self._programs())

    # Steps

    def _program(self, name: str, tools: Sequence[Any] | None) -> Steps[Program]:
        check("a program's name", name)
        core = self._adapter._open.core
        found: tuple[Current, Document] = yield OnLoop(
            lambda: core.programs.current(self._tenant, name, self.id, by_name=True)
        )
        current, document = found
        if tools:
            core.programs.hold_again(current.id, document, tools)
        return Program(self._adapter, self._tenant, current)

    def _programs(self) -> Steps[list[ProgramInfo]]:
        def work(connection: Connection) -> list[Stored]:
            from dspex.session import programs

            return programs.listed(connection, self._tenant, self.id, time.time())

        found: list[Stored] = yield OnLoop(lambda: self._read(work))
        return [info_of(stored, self.id) for stored in found]
