"""The runtime's stored programs: read, kept by version, and with the functions that only this process has."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dspex.errors import InvalidOption
from dspex.program import document as documents
from dspex.program.document import Document, Made, names
from dspex.program.importpath import is_path
from dspex.runtime.sessions import Sessions

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from dspex.session.programs import Current

_KEPT = 1024
_TOOLS_KEPT = 10_000


class Programs:
    """The way to the stored programs. Its reading lives on the runtime's loop, the rest is for any thread.

    Args:
        sessions: The way to the sessions in the store.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._lock = threading.Lock()
        # A version never changes, so it may be kept for ever.
        self._documents: OrderedDict[tuple[str, int], Document] = OrderedDict()
        self._tools: OrderedDict[str, dict[str, Any]] = OrderedDict()

    async def current(
        self, tenant: str, program_id: str, session_id: str | None, *, by_name: bool = False
    ) -> tuple[Current, Document]:
        """A program as calls run it now.

        Args:
            tenant: Whose; empty for none.
            program_id: Its id; or its name, if ``by_name``.
            session_id: Its session; None is whichever it is.
            by_name: Whether it may be named by its name.

        Raises:
            UnknownProgram: There is none, or it is of another session.
            UnknownSession: There is no such session.
            SessionExpired: Its session has expired.
            StoreError: The store cannot be used.
        """

        def work(connection: Connection) -> tuple[Current, bytes | None]:
            from dspex.session import programs

            now = time.time()
            if by_name:
                found = programs.by_name(connection, tenant, session_id or "", program_id, now)
            else:
                found = programs.current(connection, tenant, program_id, session_id, now)
            if (found.id, found.version) in self._documents:
                return found, None
            return found, programs.document(connection, found.id, found.version)

        found, encoded = await self._sessions.read(work)
        key = (found.id, found.version)
        document = self._documents.get(key)
        if document is None:
            # None was read because it was kept, and it has made room since: a rare thing.
            encoded = encoded or await self._document(*key)
            document = self._keep(key, encoded)
        if found.anonymous:
            await self._live_on(tenant, found)
        return found, document

    async def _document(self, program_id: str, number: int) -> bytes:
        def work(connection: Connection) -> bytes:
            from dspex.session import programs

            found = programs.document(connection, program_id, number)
            if found is None:
                raise programs.unknown(program_id)
            return found

        return await self._sessions.read(work)

    def _keep(self, key: tuple[str, int], encoded: bytes) -> Document:
        document = documents.decoded(encoded)
        with self._lock:
            self._documents[key] = document
            while len(self._documents) > _KEPT:
                self._documents.popitem(last=False)
        return document

    async def _live_on(self, tenant: str, found: Current) -> None:
        """A session that has no turns is used by the calls of its program; once in a while is enough."""
        if found.ttl is None or found.expires is None or found.expires - time.time() > 0.9 * found.ttl:
            return

        def work(connection: Connection) -> None:
            from dspex.session import sessions

            sessions.touch(connection, tenant, found.session_id, time.time())

        await self._sessions.write(work)

    # Functions, which cannot be stored

    def hold(self, program_id: str, tools: Mapping[str, Any]) -> None:
        """Keep the functions that a program calls, for as long as this process lives."""
        if tools:
            with self._lock:
                self._tools[program_id] = {**self._tools.pop(program_id, {}), **tools}
                while len(self._tools) > _TOOLS_KEPT:
                    self._tools.popitem(last=False)

    def hold_again(self, program_id: str, document: Document, tools: Sequence[Any]) -> None:
        """Keep functions that another process had, each for the tool of its name.

        Raises:
            InvalidOption: The program has no such tool.
        """
        wanted = [tool for stage in document.stages for tool in stage.tools or () if not is_path(tool)]
        held: dict[str, Any] = {}
        for stage in document.stages:
            if stage.tools is not None:
                names(tools, stage.module, held)
        if unknown := [name for name in held if name not in wanted]:
            raise InvalidOption(
                f"the program calls no {', '.join(unknown)}; it calls {', '.join(wanted) or 'no functions'}",
                details={"option": "tools", "unknown": unknown, "known": wanted},
            )
        self.hold(program_id, held)

    def made(self, program_id: str, document: Document) -> Made:
        """A program with the functions that it calls."""
        return Made(document, dict(self._tools.get(program_id, {})))

    def forget(self, program_id: str) -> None:
        """Let go of a deleted program's functions."""
        with self._lock:
            self._tools.pop(program_id, None)
