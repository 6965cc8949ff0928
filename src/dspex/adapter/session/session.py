"""The session."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from dspex.adapter.session.conversation import Conversation
from dspex.adapter.session.programs import Programs
from dspex.adapter.session.variables import Variables
from dspex.runtime.steps import OnLoop, Steps
from dspex.wire.jsonready import json_ready
from dspex.wire.values import decode

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from dspex.session.exported import Exported
    from dspex.session.records import SessionInfo


#: The form of an export; a later one may have another.
FORM = 1


class Session(Variables, Programs, Conversation):
    """What belongs together over several calls, in the store: programs, turns, variables.

    ``adapter.session("user-42")`` gives one. It may be used from any thread, and there may be any number of
    objects for one session, in any number of processes.
    """

    def info(self) -> SessionInfo:
        """What is known of it; asking is no use that it lives on from.

        Raises:
            UnknownSession: It was deleted.
            SessionExpired: It was not used for longer than its ``ttl``.
            StoreError: The store cannot be used.
            RuntimeError: Called on the runtime's own event loop; await ``ainfo`` there.
        """
        return self._take(self._info(), "ainfo")

    async def ainfo(self) -> SessionInfo:
        """``info`` for event loops."""
        return await self._atake(self._info())

    def reset(self) -> None:
        """Empty it: turns and variables go, programs stay.

        Raises:
            DspexError: As of ``info``.
            RuntimeError: Called on the runtime's own event loop; await ``areset`` there.
        """
        self._take(self._reset(), "areset")

    async def areset(self) -> None:
        """``reset`` for event loops."""
        await self._atake(self._reset())

    def delete(self) -> None:
        """Delete it with all that it has; afterwards it is unknown.

        Raises:
            UnknownSession: It was deleted before.
            StoreError: The store cannot be used.
            RuntimeError: Called on the runtime's own event loop; await ``adelete`` there.
        """
        self._take(self._delete(), "adelete")

    async def adelete(self) -> None:
        """``delete`` for event loops."""
        await self._atake(self._delete())

    def export(self) -> dict[str, Any]:
        """All that it has, as JSON-ready data: what is known of it, variables, programs, turns in order.

        No key is in it, for none is stored. Values that JSON has not come as they do with
        ``serialization_format="json"``: dates as text, bytes in base64.

        Raises:
            DspexError: As of ``info``.
            RuntimeError: Called on the runtime's own event loop; await ``aexport`` there.
        """
        return self._take(self._export(), "aexport")

    async def aexport(self) -> dict[str, Any]:
        """``export`` for event loops."""
        return await self._atake(self._export())

    # Steps

    def _info(self) -> Steps[SessionInfo]:
        now = time.time()

        def work(connection: Connection) -> SessionInfo:
            from dspex.session import sessions

            return sessions.info(connection, self._tenant, self.id, now)

        found: SessionInfo = yield OnLoop(lambda: self._read(work))
        return found

    def _reset(self) -> Steps[None]:
        now = time.time()

        def work(connection: Connection) -> None:
            from dspex.session import sessions

            sessions.reset(connection, self._tenant, self.id, now)

        yield OnLoop(lambda: self._write(work))

    def _export(self) -> Steps[dict[str, Any]]:
        now = time.time()

        def work(connection: Connection) -> Exported:
            from dspex.session import exported

            return exported.everything(connection, self._tenant, self.id, now)

        found: Exported = yield OnLoop(lambda: self._read(work))
        return as_document(found)

    def _delete(self) -> Steps[None]:
        def work(connection: Connection) -> None:
            from dspex.session import sessions

            sessions.end(connection, self._tenant, self.id)

        yield OnLoop(lambda: self._write(work))
        self._adapter._open.core.sessions.deleted(self._tenant, self.id)


def as_document(found: Exported) -> dict[str, Any]:
    """What a session has as JSON-ready data; see ``Session.export``."""
    return {
        "form": FORM,
        "session": json_ready(found.info),
        "variables": {name: json_ready(decode(value)) for name, value in found.variables.items()},
        "programs": found.programs,
        "turns": json_ready(found.turns),
    }
