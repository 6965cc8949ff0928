"""A small HTTP server on the loopback interface: one event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

import msgspec

from dspex.process import forks
from dspex.testing.chat import OPENAI

# Connections that may wait to be accepted, so that hundreds of clients can connect at one moment.
_BACKLOG = 1024
# Seconds that closing waits for the thread: what an async script blocks, nobody can end.
_JOIN_LIMIT = 2.0
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


@dataclass(eq=False)
class Post:
    """One request as it arrived.

    Attributes:
        path: The path of the request line.
        query: What it has after the ``?``.
        headers: Names in lower case; of a repeated header the last.
        body: The JSON object that was posted.
        data: The bytes of it.
        at: When it had arrived in full, on ``time.monotonic``'s clock.
        closed: Whether the client went away before it had its answer.
    """

    path: str
    query: str
    headers: dict[str, str]
    body: dict[str, Any]
    data: bytes
    at: float
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request gets.

    Attributes:
        data: Makes the bytes to send, head and body, when it is time; None never answers.
        closes: Whether the connection is closed after them.
        delay: Seconds to wait before they are sent.
        events: Makes what is sent after them, piece by piece; None of an answer that is whole.
        pause: Seconds before each piece.
    """

    data: Callable[[], bytes] | None
    closes: bool = False
    delay: float = 0.0
    events: Callable[[], Sequence[bytes]] | None = None
    pause: float = 0.0


def response(status: int, body: bytes, headers: str = "", kind: str = "application/json") -> bytes:
    """A whole HTTP response; ``headers`` are complete lines, each with its line end."""
    head = (
        f"HTTP/1.1 {status} {_PHRASES.get(status, 'Unknown')}\r\n"
        f"content-type: {kind}\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
    )
    return head.encode("latin-1") + body


def streamed(events: Sequence[bytes], *, pause: float, delay: float, breaks: int | None) -> Answer:
    """A stream of server-sent events.

    Args:
        events: The events.
        pause: Seconds before each.
        delay: Seconds before the first byte.
        breaks: The connection is closed after so many of them; None sends all.
    """
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    pieces = [b"%x\r\n%b\r\n" % (len(event), event) for event in events]
    pieces = [*pieces, b"0\r\n\r\n"] if breaks is None else pieces[:breaks]
    return Answer(lambda: head, breaks is not None, delay, lambda: pieces, pause)


def refusal(status: int, message: str) -> Answer:
    """The answer to what should not have come; the connection is closed."""
    body = msgspec.json.encode(OPENAI.error(status, "", message, None))
    data = response(status, body, "connection: close\r\n")
    return Answer(lambda: data, closes=True)


class Server:
    """Answers posted JSON objects on 127.0.0.1. A fork of this process lets go of it.

    Args:
        answer: Decides what each request gets. It runs on the server's loop, so it must not block; what
            takes time it gives as an awaitable, which is cancelled when the client leaves.
        port: Port to listen on; 0 takes a free one.

    Attributes:
        port: The port that it listens on, once started.
        in_flight: Requests received and not yet answered.
        peak_in_flight: The most that were in flight at once.
        connections: Connections accepted so far.
        disconnects: Requests whose client went away before it had its answer.
    """

    def __init__(self, answer: Callable[[Post], Answer | Awaitable[Answer]], *, port: int = 0) -> None:
        self.port = port
        self.in_flight = 0
        self.peak_in_flight = 0
        self.connections = 0
        self.disconnects = 0
        self._answer = answer
        self._open: set[_Connection] = set()
        self._process = os.getpid()
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()

    def start(self) -> None:
        """Listen, and answer from now on.

        Raises:
            OSError: The port is taken, or there are too many open files.
        """
        self._listener = listener = socket.create_server(("127.0.0.1", self.port), backlog=_BACKLOG)
        self.port = listener.getsockname()[1]
        forks.guard(self)
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(listener, started), name="dspex-scripted", daemon=True
        )
        self._thread.start()
        started.result()

    def stop(self) -> None:
        """Answer nothing more, without waiting for the end. Safe to repeat, on any thread."""
        if self._loop is not None and os.getpid() == self._process and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)

    def close(self) -> None:
        """Answer nothing more, and wait for the end."""
        self.stop()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_JOIN_LIMIT)

    def close_after_fork(self) -> None:
        """In a forked copy: only the process that started it answers."""
        if self._listener is not None:
            forks.close_descriptor(self._listener.detach())

    def _run(self, listener: socket.socket, started: Future[None]) -> None:
        try:
            asyncio.run(self._serve(listener, started))
        except Exception as error:
            if started.done():
                raise
            listener.close()
            started.set_exception(error)

    async def _serve(self, listener: socket.socket, started: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        server = await self._loop.create_server(lambda: _Connection(self), sock=listener, backlog=_BACKLOG)
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

    def _began(self, post: Post) -> Answer | Awaitable[Answer]:
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        return self._answer(post)

    def _ended(self, post: Post, *, left: bool) -> None:
        self.in_flight -= 1
        if left:
            post.closed = True
            self.disconnects += 1


class _Connection(asyncio.Protocol):
    """One client's connection: HTTP/1.1, kept alive, one request at a time."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._buffer = bytearray()
        self._head: tuple[str, dict[str, str], int] | None = None  # path, headers, bytes in the body
        self._post: Post | None = None  # the one that waits for its answer
        self._wait: asyncio.TimerHandle | asyncio.Future[Any] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # asyncio has set TCP_NODELAY on it
        self._server._opened(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio names it)
        self._forget(left=True)
        self._server._closed(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._post is None:
            self._advance()

    def abort(self) -> None:
        """Close at once because the server stops."""
        if self._post is None:
            # A client that merely reads the end of an idle connection keeps its own end open: reset it.
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._forget(left=False)
        self._transport.abort()

    def _forget(self, *, left: bool) -> None:
        if self._wait is not None:
            self._wait.cancel()
        if self._post is not None:
            self._server._ended(self._post, left=left)
            self._post = None

    def _advance(self) -> None:
        """Take up as many requests as are whole in the buffer, until one has to wait for its answer."""
        while self._post is None and not self._transport.is_closing():
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
        """Have a whole request answered, now or later."""
        try:
            posted: Any = msgspec.json.decode(body)
        except msgspec.DecodeError as error:
            return self._refuse(400, f"the body is not JSON: {error}")
        if not isinstance(posted, dict):
            return self._refuse(400, "the body is not a JSON object")
        path, _, query = path.partition("?")
        self._post = Post(path, query, headers, posted, body, time.monotonic())
        answer = self._server._began(self._post)
        if isinstance(answer, Answer):
            self._send_after(answer)
        else:
            self._wait = asyncio.ensure_future(answer)
            self._wait.add_done_callback(self._decided)
        return None

    def _decided(self, decided: asyncio.Future[Answer]) -> None:
        self._wait = None
        if not decided.cancelled():
            self._send_after(decided.result())
            self._advance()

    def _send_after(self, answer: Answer) -> None:
        if answer.delay > 0:
            self._wait = asyncio.get_running_loop().call_later(answer.delay, self._send_late, answer)
        else:
            self._send(answer)

    def _send_late(self, answer: Answer) -> None:
        self._wait = None
        self._send(answer)
        self._advance()

    def _send(self, answer: Answer) -> None:
        post = self._post
        if answer.data is None or post is None:
            return
        data = answer.data()
        if answer.events is not None:
            self._transport.write(data)
            self._wait = asyncio.ensure_future(self._stream(answer, answer.events(), post))
            return
        self._post = None
        self._server._ended(post, left=False)
        self._transport.write(data)
        if answer.closes or post.headers.get("connection", "").lower() == "close":
            self._transport.close()

    async def _stream(self, answer: Answer, pieces: Sequence[bytes], post: Post) -> None:
        """Send the pieces at the pace of the script, and no faster than the client reads."""
        for piece in pieces:
            if answer.pause:
                await asyncio.sleep(answer.pause)
            await self._writable.wait()
            self._transport.write(piece)
        self._wait = self._post = None
        self._server._ended(post, left=False)
        if answer.closes:
            self._transport.close()
        else:
            self._advance()

    def _refuse(self, status: int, message: str) -> None:
        """Answer what is no request, and close."""
        answer = refusal(status, message)
        assert answer.data is not None
        self._transport.write(answer.data())
        self._transport.close()
