"""A session's turns, and talking in it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from dspex import checks
from dspex.adapter.session.base import Base
from dspex.runtime.steps import OnLoop, Steps

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from dspex.adapter.response import Response
    from dspex.adapter.stream import AsyncStream, Stream
    from dspex.session.records import Insights, Turn

#: What ``chat`` runs unless somebody says otherwise.
CHAT = "history: dspy.History, message -> reply"


class Conversation(Base):
    """The part of a session that has to do with turns."""

    def chat(self, message: Any, *, signature: Any = CHAT, **how: Any) -> Response:
        """Say something, with all that was said before as the history.

        ``session.chat("And after that?").reply`` is the answer.

        Chats of one session run one after the other, in the order in which they came, also when they come
        from several processes.

        Args:
            message: Fills the one input beside the history.
            signature: What goes in and comes out, in any form that ``adapter.generate`` takes, with a
                ``dspy.History`` among the inputs.
            **how: What else ``adapter.generate`` takes: ``module``, ``lm``, ``timeout``, ``tools``, ….

        Raises:
            DspexError: As of ``adapter.generate``.
            UnknownSession: The session was deleted.
            SessionExpired: It was not used for longer than its ``ttl``.
            StoreError: The turn could not be opened; no LM was asked.
            RuntimeError: Called on the runtime's own event loop; await ``achat`` there.
        """
        self._adapter._open.portal.refuse_loop("achat")
        return self._adapter.generate(message, **self._talk(signature, how))

    async def achat(self, message: Any, *, signature: Any = CHAT, **how: Any) -> Response:
        """``chat`` for event loops. Cancelling it stops the work."""
        return await self._adapter.agenerate(message, **self._talk(signature, how))

    def stream(self, message: Any, *, signature: Any = CHAT, **how: Any) -> Stream:
        """``chat``, and hear the reply as it comes; see ``adapter.stream``."""
        return self._adapter.stream(message, **self._talk(signature, how))

    def astream(self, message: Any, *, signature: Any = CHAT, **how: Any) -> AsyncStream:
        """``stream`` for event loops. Not a coroutine."""
        return self._adapter.astream(message, **self._talk(signature, how))

    def turns(self, *, limit: int | None = None, before: int | None = None) -> list[Turn]:
        """The turns in order, those that run included.

        Args:
            limit: Only so many of the last ones.
            before: Only those before this number.

        Raises:
            UnknownSession: The session was deleted.
            SessionExpired: It was not used for longer than its ``ttl``.
            StoreError: The store cannot be used.
            RuntimeError: Called on the runtime's own event loop; await ``aturns`` there.
        """
        return self._take(self._turns(limit, before), "aturns")

    async def aturns(self, *, limit: int | None = None, before: int | None = None) -> list[Turn]:
        """``turns`` for event loops."""
        return await self._atake(self._turns(limit, before))

    def undo(self) -> int | None:
        """Remove the last turn, so that later ones do not see it. What it has cost stays counted.

        Returns:
            Its number; None when there is no turn.

        Raises:
            InvalidInput: It runs still.
            DspexError: As of ``turns``.
            RuntimeError: Called on the runtime's own event loop; await ``aundo`` there.
        """
        return self._take(self._undo(), "aundo")

    async def aundo(self) -> int | None:
        """``undo`` for event loops."""
        return await self._atake(self._undo())

    def insights(self) -> Insights:
        """What the turns came to: how many, tokens, dollars, times, errors.

        Raises:
            DspexError: As of ``turns``.
            RuntimeError: Called on the runtime's own event loop; await ``ainsights`` there.
        """
        return self._take(self._insights(), "ainsights")

    async def ainsights(self) -> Insights:
        """``insights`` for event loops."""
        return await self._atake(self._insights())

    # Steps

    def _talk(self, signature: Any, how: dict[str, Any]) -> dict[str, Any]:
        return {**how, "signature": signature, "session": self, "tenant": self.tenant}

    def _turns(self, limit: int | None, before: int | None) -> Steps[list[Turn]]:
        checks.whole_number("limit", limit, 0, optional=True)
        checks.whole_number("before", before, 0, optional=True)

        def work(connection: Connection) -> list[Turn]:
            from dspex.session import past

            return past.listed(connection, self._tenant, self.id, time.time(), limit, before)

        found: list[Turn] = yield OnLoop(lambda: self._read(work))
        return found

    def _undo(self) -> Steps[int | None]:
        def work(connection: Connection) -> int | None:
            from dspex.session import past

            return past.undo(connection, self._tenant, self.id, time.time())

        undone: int | None = yield OnLoop(lambda: self._write(work))
        return undone

    def _insights(self) -> Steps[Insights]:
        def work(connection: Connection) -> Insights:
            from dspex.session import past

            return past.insights(connection, self._tenant, self.id, time.time())

        found: Insights = yield OnLoop(lambda: self._read(work))
        return found
