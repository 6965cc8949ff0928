"""A language model whose replies a test scripts."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import secrets
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self

import msgspec

from dspex import checks
from dspex.errors import InvalidOption
from dspex.lm.profile import LM
from dspex.testing.chat import OPENAI, Prompt
from dspex.testing.http import Answer, Post, Server, refusal, response
from dspex.testing.replies import (
    Drop,
    Failure,
    Reply,
    Request,
    Scripted,
    ScriptError,
    checked,
    read,
    streams,
    wire,
)
from dspex.types import Retry

Function = Callable[[Request], Scripted | Awaitable[Scripted]]

_OWN = ("api_key", "base_url", "engine")
# Attempts as an LM has them, with waits that a test can afford.
_RETRY = Retry(attempts=3, wait=0.01)


class ScriptedLM(LM):
    """An ``LM`` that says what a test tells it to.

    It is a real server on the loopback interface, in a thread of the test's process, that speaks OpenAI's
    protocol. So programs reach it through the same adapters, retries, prices and errors as a provider, from
    worker processes as from an ``InProcessRuntime``. It answers only who has its key. What it cannot answer
    as told (no reply left, a reply that does not fit the prompt, a script that failed) is never made up: the
    request fails with ``lm_invalid_request``, whose message says what is wrong, and is not tried again.

    Use it in a ``with`` block, or ``close`` it; one that is forgotten closes when it is collected. A fork of
    the test's process may go on asking it, and is answered by the process that made it.

    Args:
        replies: What it replies, one a request, in the order in which requests arrive: a text, outputs by
            name, ``Reply``, ``raw``, ``Failure`` or ``Drop``. Or a function, sync or async, that gets each
            ``Request`` and returns one of these; a sync one runs in a thread of its own.
        model: What it is called; the price is that of the model of this name, if it has one.
        retry: How one request is tried again. The waits are short, unlike those of an ``LM``.
        **options: Whatever else ``LM`` takes (``adapter``, ``temperature``, ``timeout``, …).

    Raises:
        InvalidOption: A reply or an option is not one that can be given.
    """

    def __init__(
        self,
        replies: Sequence[Scripted] | Callable[[Request], Scripted | Awaitable[Scripted]],
        *,
        model: str = "openai/scripted",
        retry: Retry = _RETRY,
        **options: Any,
    ) -> None:
        if taken := [name for name in _OWN if name in options]:
            raise InvalidOption(f"ScriptedLM sets {taken[0]} itself", details={"option": taken[0]})
        if not isinstance(model, str) or not model.startswith("openai/"):
            raise checks.refuse("model", "'openai/<name>', for it speaks OpenAI's protocol", model)
        script = _Script(replies, secrets.token_urlsafe(16))
        server = Server(script.answer)
        server.start()
        try:
            address = f"http://127.0.0.1:{server.port}/v1"
            super().__init__(model, api_key=script.key, base_url=address, retry=retry, **options)
        except BaseException:
            server.close()
            raise
        self._script = script
        self._server = server
        # The server knows the script and not this object, which can therefore be collected.
        weakref.finalize(self, server.stop)

    @property
    def requests(self) -> list[Request]:
        """The requests that have arrived so far, in order."""
        return list(self._script.requests)

    @property
    def left(self) -> int | None:
        """How many replies nobody has asked for yet; None when a function replies."""
        return None if self._script.replies is None else len(self._script.replies)

    @property
    def in_flight(self) -> int:
        """How many requests wait for their replies."""
        return self._server.in_flight

    @property
    def peak_in_flight(self) -> int:
        """The most requests that waited for their replies at one time."""
        return self._server.peak_in_flight

    def assert_exhausted(self) -> None:
        """Fail the test unless every reply was asked for, and every request was answered as told.

        Raises:
            AssertionError: A reply is left, or a request was refused; the message says which.
        """
        if self._script.refused:
            raise AssertionError(f"ScriptedLM refused a request: {self._script.refused[0]}")
        if self.left:
            raise AssertionError(f"nobody asked for the last {self.left} of {self._script.given} replies")

    def close(self) -> None:
        """Answer nothing more: a request from now on ends with ``lm_unavailable``. Safe to repeat."""
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ScriptedLM({self.model!r}, requests={len(self._script.requests)}, left={self.left})"


class _Script:
    """What a ``ScriptedLM`` replies; used on its server's loop.

    Attributes:
        key: What a request has to be signed with.
        replies: Those that are left; None when a function replies.
        given: How many there were.
        requests: All that arrived with the key.
        refused: Why requests were not answered as told.
    """

    def __init__(self, replies: Sequence[Scripted] | Function, key: str) -> None:
        self.key = key
        self.requests: list[Request] = []
        self.refused: list[str] = []
        self.replies: deque[Reply | Failure | Drop] | None = None
        self.given = 0
        self._function: Function | None = None
        if callable(replies):
            self._function = replies
        elif isinstance(replies, Sequence) and not isinstance(replies, str | bytes):
            self.replies = deque(checked(reply) for reply in replies)
            self.given = len(self.replies)
        else:
            raise checks.refuse("replies", "a list of replies, or a function", replies, "ScriptedLM")

    def answer(self, post: Post) -> Answer | Awaitable[Answer]:
        """What a request gets."""
        if post.headers.get("authorization") != f"Bearer {self.key}":
            return refusal(401, "this ScriptedLM has another key: pass the object itself as the lm")
        if not post.path.endswith("/chat/completions"):
            return self._refuse(f"ScriptedLM serves chat completions, not {post.path}")
        try:
            request, prompt = read(len(self.requests) + 1, post.body)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return self._refuse(f"this is no chat completion: {type(error).__name__}: {error}")
        self.requests.append(request)
        if post.body.get("n", 1) != 1:
            return self._refuse("ScriptedLM gives one choice a request, so n has to be 1")
        if self._function is not None:
            return self._called(self._function, request, prompt)
        if not self.replies:
            given, number = self.given, request.number
            return self._refuse(
                f"ScriptedLM has no reply left: it was given {given}, and this was request {number}"
            )
        return self._written(self.replies.popleft(), request, prompt)

    async def _called(self, function: Function, request: Request, prompt: Prompt) -> Answer:
        try:
            is_async = inspect.iscoroutinefunction(function)
            given = function(request) if is_async else await _in_thread(function, request)
            reply = checked(await given if inspect.isawaitable(given) else given)
        except BaseException as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # the client has left
                raise
            return self._refuse(f"the script's function failed: {type(error).__name__}: {error}")
        return self._written(reply, request, prompt)

    def _written(self, reply: Reply | Failure | Drop, request: Request, prompt: Prompt) -> Answer:
        if isinstance(reply, Drop):
            return Answer(bytes, closes=True, delay=reply.delay)
        try:
            if isinstance(reply, Reply) and request.params.get("stream"):
                return streams(reply, request, prompt)
            data = wire(reply, request, prompt)
        except ScriptError as error:
            return self._refuse(f"request {request.number}: {error}")
        except Exception as error:  # noqa: BLE001 (text that is no UTF-8, say: the call must not wait for it)
            return self._refuse(
                f"request {request.number}: the reply cannot be sent: {type(error).__name__}: {error}"
            )
        return Answer(lambda: data, delay=reply.delay)

    def _refuse(self, message: str) -> Answer:
        """Fail a request for good: this status is tried again by nobody."""
        message = message.encode(errors="backslashreplace").decode()
        self.refused.append(message)
        data = response(400, msgspec.json.encode(OPENAI.error(400, "", message, "scripted_lm")))
        return Answer(lambda: data)


async def _in_thread(function: Function, request: Request) -> Any:
    """What the function returns, from a thread that holds up neither other requests nor the process's end."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if not ended.done():
            ended.set_result((value, error))

    def call() -> None:
        value, error = None, None
        try:
            value = function(request)
        except BaseException as raised:  # noqa: BLE001 (it is the outcome)
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=call, name="dspex-script", daemon=True).start()
    value, error = await ended
    if error is not None:
        raise error
    return value
