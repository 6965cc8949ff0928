"""Server-sent events: a stream of dspex's as a response."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dspex.adapter.stream import AsyncStream, Event, Final
from dspex.errors import DspexError
from dspex.media.turns import ToolCall
from dspex.runtime.told import Delta, Started, Status, ToolResult
from dspex.server import problems
from dspex.server.answers import body_of
from dspex.server.connected import while_connected
from dspex.types import Usage
from dspex.wire.jsonready import json_ready

#: Seconds without an event after which a comment is sent: proxies close what is silent.
HEARTBEAT = 15.0
_NAMES: dict[type, str] = {
    Started: "started",
    Delta: "delta",
    Status: "status",
    ToolCall: "tool_call",
    ToolResult: "tool_result",
    Usage: "usage",
    Final: "final",
}
#: One event, for the OpenAPI document.
EVENT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "event": {"type": "string", "enum": [*_NAMES.values(), "error"]},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"type": "object"},
        },
    },
    "required": ["event", "data"],
}


async def begun(events: AsyncStream) -> Event:
    """The first event; what is refused is refused here, while a status can still be said.

    Raises:
        DspexError: The call failed before anything happened.
    """
    try:
        return await anext(events)
    except BaseException:
        await events.aclose()
        raise


class EventStream(Response):
    """Sends the events of a stream, and closes it when the client leaves.

    Args:
        first: The event that has come already.
        events: The rest.
        path: Where it was asked for.
    """

    media_type = "text/event-stream"

    def __init__(self, first: Event, events: AsyncStream, path: str) -> None:
        super().__init__(
            headers={
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",  # nginx would keep events until it has many
                **({"X-Request-Id": first.request_id} if isinstance(first, Started) else {}),
            }
        )
        del self.headers["content-length"]
        self._first = first
        self._events = events
        self._path = path
        self._last = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them all."""
        beating: asyncio.Task[None] | None = None
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            beating = asyncio.create_task(self._beat(send))
            await while_connected(receive, self._send(scope, send))
        except ClientDisconnect:
            return  # the response has begun: nobody could be told anything
        finally:
            if beating is not None:
                beating.cancel()
                await asyncio.gather(beating, return_exceptions=True)
            await self._events.aclose()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, scope: Scope, send: Send) -> None:
        try:
            await self._chunk(send, _lines(self._first))
            async for event in self._events:
                await self._chunk(send, _lines(event))
        except DspexError as error:
            problem = problems.of_error(error, self._path, scope["state"]["request_id"])
            problems.log(problem, error)
            await self._chunk(send, _named("error", problem))

    async def _beat(self, send: Send) -> None:
        while True:
            quiet = time.monotonic() - self._last
            if quiet >= HEARTBEAT:
                await self._chunk(send, b": still here\n\n")
            else:
                await asyncio.sleep(HEARTBEAT - quiet)

    async def _chunk(self, send: Send, data: bytes) -> None:
        self._last = time.monotonic()
        await send({"type": "http.response.body", "body": data, "more_body": True})


def _lines(event: Event) -> bytes:
    name = _NAMES[type(event)]
    if isinstance(event, Final):
        return _named(name, body_of(event.response))
    said: dict[str, Any] = json_ready(event)
    if isinstance(event, Started):
        del said["worker"]
    if isinstance(event, ToolResult) and event.error is not None:
        said["error"] = "the tool failed, or was not allowed"
    return _named(name, said)


def _named(name: str, data: Any) -> bytes:
    # JSON has no line end outside its texts, and writes those in them as \n: one line of data.
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"
