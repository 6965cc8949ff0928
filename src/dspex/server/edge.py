"""What every request passes first: its id, the key, the limit of its body, and its line in the log."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dspex.server import problems
from dspex.server.keys import Keys

_log = logging.getLogger("dspex.server")
#: What needs no key: who asks these, a load balancer, has none, and learns nothing but yes or no.
OPEN_PATHS = frozenset({"/healthz", "/readyz"})
#: What is not for tenants: it tells of all of them together.
_OPERATORS = frozenset({"/metrics"})


class Edge:
    """Wraps the application; pure ASGI, because it is passed by each message of each stream.

    Args:
        app: What is behind it.
        keys: What callers have to show.
        max_body: Bytes that the body of a request may have.
        body_timeout: Seconds within which it has to come.
    """

    def __init__(self, app: ASGIApp, *, keys: Keys, max_body: int, body_timeout: float) -> None:
        self._app = app
        self._keys = keys
        self._max_body = max_body
        self._body_timeout = body_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = _Seen(scope, send)
        headers = dict(scope["headers"])
        refusal = self._refusal(scope, headers, seen.id)
        try:
            if refusal is not None:
                await problems.response(*refusal)(scope, receive, seen.send)
                return
            await self._app(scope, _Body(receive, self._max_body, self._body_timeout).receive, seen.send)
        finally:
            seen.tell()

    def _refusal(
        self, scope: Scope, headers: Mapping[bytes, bytes], request_id: str
    ) -> tuple[dict[str, Any], dict[str, str]] | None:
        path: str = scope["path"]
        if self._keys and path not in OPEN_PATHS:
            known, tenant = self._keys.find(headers.get(b"authorization", b""))
            if not known:
                text = "this server wants a key: Authorization: Bearer <key>"
                said = problems.of_status(401, "unauthorized", text, path, request_id)
                return said, {"WWW-Authenticate": "Bearer", "Connection": "close"}
            if tenant is not None and path in _OPERATORS:
                text = "this is for whoever runs the server; a tenant's key is not enough"
                return problems.of_status(403, "not_allowed", text, path, request_id), {"Connection": "close"}
            scope["state"]["tenant"] = tenant
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_body:
            text = f"a body of {int(length):,} bytes; the limit is {self._max_body:,}"
            said = problems.of_status(413, "payload_too_large", text, path, request_id, limit=self._max_body)
            return said, {"Connection": "close"}
        return None


class _Body:
    """Reads a body up to the limit, of which a length in a header says nothing when it comes in chunks."""

    def __init__(self, receive: Receive, limit: int, seconds: float) -> None:
        self._receive = receive
        self._limit = limit
        self._end = time.monotonic() + seconds
        self._size = 0
        self._read = False

    async def receive(self) -> Message:
        if self._read:
            return await self._receive()  # only the client's leaving can come
        try:
            async with asyncio.timeout(max(0.0, self._end - time.monotonic())):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, "the body did not come in time", {"Connection": "close"}) from None
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            self._read = not message.get("more_body", False)
            if self._size > self._limit:
                text = f"a body of more than {self._limit:,} bytes, which is the limit"
                raise HTTPException(413, text, {"Connection": "close"})
        return message


class _Seen:
    """One request as its line in the log tells it; nothing of its body is in there."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.id = uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = self.id
        self._scope = scope
        self._send = send
        self._began = time.monotonic()
        self._status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = MutableHeaders(scope=message)
            # A call's own id, which stands in its errors and turns, where a call was made.
            self.id = headers.setdefault("X-Request-Id", self.id)
        await self._send(message)

    def tell(self) -> None:
        if not _log.isEnabledFor(logging.INFO):
            return
        client = self._scope.get("client")
        seconds = time.monotonic() - self._began
        _log.info(
            "%s %s %s %s %.0f ms %s",
            client[0] if client else "-",
            self._scope["method"],
            # Not as it was sent: a line end in it would make a line of its own.
            ascii(self._scope["path"])[1:-1],
            self._status or "left",
            seconds * 1000,
            self.id,
            extra={
                "request_id": self.id,
                "method": self._scope["method"],
                "status": self._status or None,
                "seconds": round(seconds, 6),
            },
        )
