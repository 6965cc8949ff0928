"""The HTTP server: one event loop in a thread of its own, a few microseconds of Python per request."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self, cast

import msgspec

from tests.provider.dialects import OPENAI, route
from tests.provider.replies import Reply, Script, echo, fault, response
from tests.provider.request import Request

if TYPE_CHECKING:
    from types import TracebackType

#: Connections that may wait to be accepted, so that hundreds of clients can connect at one moment.
BACKLOG = 1024


class Provider:
    """A scripted provider that listens on 127.0.0.1 while its ``with`` block runs.

    Attributes:
        reply: Decides the reply to each request; set it at any time.
        requests: All requests that reached the script, oldest first.
        in_flight: Requests received and not yet answered.
        peak_in_flight: The most that were in flight at once.
        connections: Connections accepted so far.
        disconnects: Requests whose client went away before the reply was sent.
    """

    def __init__(self, reply: Script = lambda _: echo(), *, port: int = 0, record: bool = True) -> None:
        """Prepare the server.

        Args:
            reply: The first script.
            port: Port to listen on; 0 takes a free one.
            record: Whether ``requests`` is kept; turn it off for long benchmarks.
        """
        self.reply = reply
        self.requests: list[Request] = []
        self.in_flight = 0
        self.peak_in_flight = 0
        self.connections = 0
        self.disconnects = 0
        self._received = 0
        self._port = port
        self._record = record
        self._open: set[_Connection] = set()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()

    @property
    def base_url(self) -> str:
        """For OpenAI and all that speak its chat completions."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def origin(self) -> str:
        """For providers whose engine knows the path: Azure, Bedrock, Vertex."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def anthropic_url(self) -> str:
        """For Anthropic, as DSPy's ``api_base`` wants it."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def gemini_url(self) -> str:
        """For Gemini, as DSPy's ``api_base`` wants it."""
        return f"http://127.0.0.1:{self._port}/v1beta"

    def __enter__(self) -> Self:
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(started)), name="provider", daemon=True
        )
        self._thread.start()
        started.result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self, started: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            server = await self._loop.create_server(
                lambda: _Connection(self), "127.0.0.1", self._port, backlog=BACKLOG
            )
        except OSError as error:
            started.set_exception(error)
            return
        self._port = server.sockets[0].getsockname()[1]
        started.set_result(None)
        await self._stop.wait()
        server.close()
        for connection in tuple(self._open):
            connection.abort()
        await asyncio.sleep(0)  # each transport closes its socket in the loop's next turn

    def _opened(self, connection: _Connection) -> None:
        self._open.add(connection)
        self.connections += 1

    def _closed(self, connection: _Connection) -> None:
        self._open.discard(connection)

    def _began(self, request: Request) -> Reply:
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        if self._record:
            self.requests.append(request)
        try:
            return self.reply(request)
        except Exception as error:
            return _broken_script(error)

    def _ended(self, request: Request, *, left: bool) -> None:
        self.in_flight -= 1
        if left:
            request.closed = True
            self.disconnects += 1

    def _next_number(self) -> int:
        self._received += 1
        return self._received


class _Connection(asyncio.Protocol):
    """One client's connection: HTTP/1.1, kept alive, one request at a time."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._buffer = bytearray()
        self._head: tuple[str, dict[str, str], int] | None = None  # path, headers, bytes in the body
        self._request: Request | None = None  # the one that waits for its reply
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # asyncio has set TCP_NODELAY on it
        self._provider._opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget(left=True)
        self._provider._closed(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._request is None:
            self._advance()

    def abort(self) -> None:
        """Close at once because the server stops."""
        self._forget(left=False)
        self._transport.abort()

    def _forget(self, *, left: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._request is not None:
            self._provider._ended(self._request, left=left)
            self._request = None

    def _advance(self) -> None:
        """Take up as many requests as are whole in the buffer, until one has to wait for its reply."""
        while self._request is None and not self._transport.is_closing():
            if self._head is None:
                end = self._buffer.find(b"\r\n\r\n")
                if end < 0:
                    return
                head = self._buffer[:end].decode("latin-1")
                del self._buffer[: end + 4]
                self._read_head(head)
                continue
            path, headers, length = self._head
            if len(self._buffer) < length:
                return
            body = bytes(self._buffer[:length])
            del self._buffer[:length]
            self._head = None
            self._take(path, headers, body)

    def _read_head(self, head: str) -> None:
        line, *rows = head.split("\r\n")
        headers = {}
        for row in rows:
            name, _, value = row.partition(":")
            headers[name.lower()] = value.strip()
        try:
            method, path, _ = line.split(" ")
            length = int(headers.get("content-length", "0"))
        except ValueError:
            return self._refuse(400, f"malformed head: {line!r}")
        if "transfer-encoding" in headers:
            return self._refuse(411, "send a Content-Length; chunked requests are not read")
        if method != "POST":
            return self._refuse(405, f"{method} is not answered here, only POST")
        self._head = path, headers, length
        return None

    def _take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        """Give a whole request to the script, and answer it now or later."""
        path, _, query = path.partition("?")
        known = route(path)
        if known is None:
            return self._refuse(404, f"nothing is served at {path}")
        try:
            posted: Any = msgspec.json.decode(body)
        except msgspec.DecodeError as error:
            return self._refuse(400, f"the body is not JSON: {error}")
        if not isinstance(posted, dict):
            return self._refuse(400, "the body is not a JSON object")
        if posted.get("stream"):
            return self._refuse(501, "this provider does not stream")
        dialect, model = known
        number = self._provider._next_number()
        self._request = Request(
            path,
            query,
            headers,
            posted,
            time.monotonic(),
            number,
            model or str(posted.get("model", "")),
            dialect,
        )
        reply = self._provider._began(self._request)
        if reply.delay > 0:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(reply.delay, self._send_late, reply)
        else:
            self._send(reply)
        return None

    def _send_late(self, reply: Reply) -> None:
        self._timer = None
        self._send(reply)
        self._advance()

    def _send(self, reply: Reply) -> None:
        request = self._request
        if reply.wire is None or request is None:
            return
        try:
            data = reply.wire(request)
        except Exception as error:
            broken = _broken_script(error)
            assert broken.wire is not None
            data = broken.wire(request)
        self._request = None
        self._provider._ended(request, left=False)
        self._transport.write(data)
        if reply.closes or request.headers.get("connection", "").lower() == "close":
            self._transport.close()

    def _refuse(self, status: int, message: str) -> None:
        """Answer what never reaches the script, and close."""
        body = msgspec.json.encode(OPENAI.error(status, "", message, None))
        self._transport.write(response(status, body, "connection: close\r\n"))
        self._transport.close()


def _broken_script(error: Exception) -> Reply:
    return fault(500, message=f"the test's script failed: {error!r}", code="script_failed")
