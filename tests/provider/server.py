"""The provider: the loopback server of ``dspex.testing``, speaking three dialects to one script."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import msgspec

from dspex.testing.chat import cut
from dspex.testing.http import Answer, Post, Server, refusal, streamed
from tests.provider import events
from tests.provider.dialects import route
from tests.provider.replies import Reply, Script, echo, fault
from tests.provider.request import Request

if TYPE_CHECKING:
    from types import TracebackType


class Provider(Server):
    """A scripted provider that listens on 127.0.0.1 while its ``with`` block runs.

    Attributes:
        reply: Decides the reply to each request; set it at any time.
        requests: All requests that reached the script, oldest first.
    """

    def __init__(self, reply: Script = lambda _: echo(), *, port: int = 0, record: bool = True) -> None:
        """Prepare the server.

        Args:
            reply: The first script.
            port: Port to listen on; 0 takes a free one.
            record: Whether ``requests`` is kept; turn it off for long benchmarks.
        """
        super().__init__(self._reply, port=port)
        self.reply = reply
        self.requests: list[Request] = []
        self._received = 0
        self._record = record

    @property
    def base_url(self) -> str:
        """For OpenAI and all that speak its chat completions."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def origin(self) -> str:
        """For providers whose engine knows the path: Azure, Bedrock, Vertex."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def anthropic_url(self) -> str:
        """For Anthropic, as DSPy's ``api_base`` wants it."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def gemini_url(self) -> str:
        """For Gemini, as DSPy's ``api_base`` wants it."""
        return f"http://127.0.0.1:{self.port}/v1beta"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _reply(self, post: Post) -> Answer:
        known = route(post.path)
        if known is None:
            return refusal(404, f"nothing is served at {post.path}")
        dialect, model = known
        streams = bool(post.body.get("stream")) or ":streamGenerateContent" in post.path
        if streams and not events.streams(dialect):
            return refusal(501, "this provider does not stream what is asked for there")
        self._received += 1
        request = Request(self._received, model or str(post.body.get("model", "")), dialect, post)
        if self._record:
            self.requests.append(request)
        try:
            reply = self.reply(request)
        except Exception as error:
            reply = _broken_script(error)
        if streams and reply.wire is not None and (whole := _answered(_bytes(reply, request))) is not None:
            return _streamed(whole, reply, request)
        data = None if reply.wire is None else lambda: _bytes(reply, request)
        return Answer(data, reply.closes, reply.delay)


def _bytes(reply: Reply, request: Request) -> bytes:
    assert reply.wire is not None
    try:
        return reply.wire(request)
    except Exception as error:
        broken = _broken_script(error)
        assert broken.wire is not None
        return broken.wire(request)


def _answered(data: bytes) -> dict[str, Any] | None:
    """The answer in the bytes of a response; None where they hold none."""
    head, _, body = data.partition(b"\r\n\r\n")
    try:
        answer: dict[str, Any] = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None
    return answer if head.startswith(b"HTTP/1.1 200") and events.text_in(answer) is not None else None


def _streamed(whole: dict[str, Any], reply: Reply, request: Request) -> Answer:
    written = events.written(whole, cut(events.text_in(whole) or "", reply.cut), request)
    breaks = None if reply.breaks is None else reply.breaks + 1
    return streamed(written, pause=reply.pause, delay=reply.delay, breaks=breaks)


def _broken_script(error: Exception) -> Reply:
    return fault(500, message=f"the test's script failed: {error!r}", code="script_failed")
