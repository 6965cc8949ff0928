"""One connection: a client that takes all the time in the world is left.

Whoever opens many connections and sends a header a minute on each, or never reads what he asked for, would
take all of a server's sockets and none of its work. Bodies have a limit of their own, in ``edge``.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol as Protocol
else:
    from uvicorn.protocols.http.auto import AutoHTTPProtocol as Protocol

#: Seconds within which the head of a request has to come, from its first byte or the connection's begin.
HEAD = 20.0
#: Seconds for which a client may take nothing of what is sent to it.
TAKEN = 60.0
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Connection(Protocol):
    """uvicorn's, with a limit of time for what the client has to do."""

    _head: asyncio.TimerHandle | None = None
    _taken: asyncio.TimerHandle | None = None
    _heard = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Take what has come; no request under way means that it is a part of the next one's head."""
        self._heard = True
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._head_came()
        elif self._head is None and not self.transport.is_closing():
            self._wait_for_head()

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        super().pause_writing()
        self._taken = self.loop.call_later(TAKEN, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: it reads."""
        super().resume_writing()
        if self._taken is not None:
            self._taken.cancel()
            self._taken = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._head_came()
        super().connection_lost(exc)
        if self._taken is not None:
            self._taken.cancel()

    def _wait_for_head(self) -> None:
        self._head = self.loop.call_later(HEAD, self._leave)

    def _head_came(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _leave(self) -> None:
        if self.transport.is_closing():
            return
        if self._heard:  # a browser opens connections that it may never use; those are just closed
            self.transport.write(_TOO_SLOW)
        self.transport.close()
