"""What the provider can answer, well or badly, one constructor each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

import msgspec

from dspex.testing.http import response
from dspex.testing.prompts import rendered
from tests.provider.prompts import echoed
from tests.provider.request import Request


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer to one request.

    Attributes:
        wire: Makes the bytes to send, head and body; None never answers.
        closes: Whether the connection is closed after them.
        delay: Seconds to wait before they are sent.
        cut: How many characters a piece of a stream has; None sends word by word.
        pause: Seconds before each piece of a stream.
        breaks: A stream breaks off after so many pieces; None sends all.
    """

    wire: Callable[[Request], bytes] | None
    closes: bool = False
    delay: float = 0.0
    cut: int | None = None
    pause: float = 0.0
    breaks: int | None = None


#: Decides the reply to each request. It runs on the server's loop, so it must not block.
Script = Callable[[Request], Reply]


def text(content: str) -> Reply:
    """The assistant says exactly this."""
    return Reply(lambda request: _answer(request, content))


def fields(**values: Any) -> Reply:
    """The assistant gives these output fields, in the form that the prompt wants: chat, JSON or XML."""
    return Reply(lambda request: _answer(request, rendered(request.prompt, values)))


def echo() -> Reply:
    """The assistant answers every output field that the prompt asks for.

    A text field holds the text of the last input field that is not empty, other fields the plainest value
    of their type: 1, 1.0, True, the first of a ``Literal`` or an enum, the smallest value of a JSON schema.
    A prompt that is not one of DSPy's gets the user's message back.
    """
    return _ECHO


def fault(
    status: int, retry_after: float | None = None, message: str | None = None, code: str | None = None
) -> Reply:
    """The provider refuses, with the error body that is usual for it.

    Args:
        status: HTTP status.
        retry_after: Seconds for a ``Retry-After`` header.
        message: The error's text, in place of the provider's usual one for this status.
        code: The error's code, in place of the usual one. ``"context_length_exceeded"`` with status 400
            is understood by all providers.
    """
    headers = "" if retry_after is None else f"retry-after: {retry_after:g}\r\n"

    def wire(request: Request) -> bytes:
        body = request.dialect.error(status, request.model, message, code)
        return response(status, msgspec.json.encode(body), f"{headers}x-request-id: req-{request.number}\r\n")

    return Reply(wire)


def html(status: int) -> Reply:
    """A gateway between the client and the provider answers, with a page for people."""
    title = f"{status} {HTTPStatus(status).phrase}"
    page = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\r\n"
    return Reply(lambda _: response(status, page.encode(), kind="text/html"))


def redirected(url: str) -> Reply:
    """Another address is to be asked: a gateway's sign-in page, say."""
    return Reply(lambda _: response(302, b"", f"location: {url}\r\n"))


def garbage() -> Reply:
    """Success by its status, but the body is not JSON."""
    return Reply(lambda _: response(200, b"\x00this is {not JSON"))


def truncated() -> Reply:
    """The connection ends half-way through the body of an otherwise good answer."""

    def wire(request: Request) -> bytes:
        whole = _answer(request, echoed(request.prompt))
        start = whole.index(b"\r\n\r\n") + 4
        return whole[: (start + len(whole)) // 2]

    return Reply(wire, closes=True)


def dropped() -> Reply:
    """The connection is closed without a byte."""
    return Reply(lambda _: b"", closes=True)


def hanging() -> Reply:
    """Nothing comes until the client leaves."""
    return Reply(None)


def delayed(seconds: float, reply: Reply) -> Reply:
    """The same reply, later."""
    return replace(reply, delay=reply.delay + seconds)


def paced(reply: Reply, *, cut: int | None = None, pause: float = 0.0, breaks: int | None = None) -> Reply:
    """The same reply, to a client that streams in pieces of that size, at that pace, or not to its end."""
    return replace(reply, cut=cut, pause=pause, breaks=breaks)


def sequence(*replies: Reply) -> Script:
    """Give these replies in order, one a request, and a plain error to each request after them."""
    left = iter(replies)
    return lambda _: next(left, _RAN_OUT)


def _answer(request: Request, content: str) -> bytes:
    tokens = (request.prompt.words, len(content.split()))
    body = request.dialect.answer(request.number, request.model, content, tokens)
    return response(200, msgspec.json.encode(body))


_ECHO = Reply(lambda request: _answer(request, echoed(request.prompt)))
_RAN_OUT = fault(500, message="script ran out")
