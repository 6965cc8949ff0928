"""What a scripted LM can reply, well or badly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from dspex import checks
from dspex.errors import InvalidOption
from dspex.testing.chat import OPENAI, Prompt, cut
from dspex.testing.http import Answer, response, streamed
from dspex.testing.prompts import Form, form, inputs_of, rendered
from dspex.types import Usage

#: HTTP statuses of errors.
_ERRORS = range(400, 600)


class ScriptError(Exception):
    """The script cannot answer this request; the message says why."""


class Reply(msgspec.Struct, frozen=True):
    """What the model says.

    Attributes:
        content: Outputs by name, put in the form that the prompt asks for (chat, JSON or XML); or a text,
            which fills the one output, and is sent as it is where the prompt names no outputs.
        delay: Seconds until it is sent. A client that does not wait so long is noticed.
        usage: Its tokens; None counts the words of the prompt and of the reply.
        finish: Why the model stopped: ``"stop"``, ``"length"`` for an answer that was cut off.
        as_is: Whether a text is sent as it is, whatever the prompt asks for.
        chunks: How a stream of it is cut: into pieces of so many characters, into these very pieces, or, when
            None, word by word.
        pause: Seconds before each piece of a stream.
        breaks: A stream of it breaks off after so many pieces; None sends all.

    Raises:
        InvalidOption: A value is not one that the option takes.
    """

    content: str | Mapping[str, Any]
    delay: float = 0.0
    usage: Usage | None = None
    finish: str = "stop"
    as_is: bool = False
    chunks: int | Sequence[str] | None = None
    pause: float = 0.0
    breaks: int | None = None

    def __post_init__(self) -> None:
        checks.number("pause", self.pause, what="a number of seconds", owner="Reply")
        checks.number("breaks", self.breaks, optional=True, owner="Reply")
        if isinstance(self.chunks, bool | str) or (isinstance(self.chunks, int) and self.chunks < 1):
            raise checks.refuse("chunks", "a number of characters, or a list of texts", self.chunks, "Reply")
        checks.number("delay", self.delay, what="a number of seconds", owner="Reply")
        if not isinstance(self.content, str | Mapping) or (self.as_is and not isinstance(self.content, str)):
            raise checks.refuse("content", "a text, or outputs by name", self.content, "Reply")
        if self.usage is not None and not isinstance(self.usage, Usage):
            raise checks.refuse("usage", "a Usage", self.usage, "Reply")


class Failure(msgspec.Struct, frozen=True):
    """The provider refuses, with the error body that is usual for it.

    Attributes:
        status: HTTP status: 401 becomes ``lm_auth``, 429 ``lm_rate_limited``, 500 and 503 ``lm_unavailable``.
        retry_after: Seconds for a ``Retry-After`` header.
        message: The error's text in place of the usual one.
        code: The provider's own code in place of the usual one; with status 400
            ``"context_length_exceeded"`` becomes ``lm_context_window``.
        delay: Seconds until it is sent.

    Raises:
        InvalidOption: A value is not one that the option takes.
    """

    status: int
    retry_after: float | None = None
    message: str | None = None
    code: str | None = None
    delay: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.status, int) or self.status not in _ERRORS:
            raise checks.refuse("status", "an HTTP status from 400 to 599", self.status, "Failure")
        checks.number("retry_after", self.retry_after, optional=True, owner="Failure")
        checks.text("message", self.message, owner="Failure")
        checks.text("code", self.code, owner="Failure")
        checks.number("delay", self.delay, what="a number of seconds", owner="Failure")


class Drop(msgspec.Struct, frozen=True):
    """The connection is closed without a byte, which becomes ``lm_unavailable``.

    Attributes:
        delay: Seconds until it is closed.
    """

    delay: float = 0.0

    def __post_init__(self) -> None:
        checks.number("delay", self.delay, what="a number of seconds", owner="Drop")


#: What a script may give: a text and a dict are short for a ``Reply`` of them.
Scripted = str | Mapping[str, Any] | Reply | Failure | Drop


def raw(text: str, *, delay: float = 0.0) -> Reply:
    """The model says exactly this, whatever the prompt asks for: the way to an answer that cannot be read.

    Args:
        text: What it says.
        delay: Seconds until it is sent.
    """
    return Reply(text, delay=delay, as_is=True)


def checked(reply: object) -> Reply | Failure | Drop:
    """What a script gave, a text or a dict made into a ``Reply``.

    Raises:
        InvalidOption: It is nothing that can be replied.
    """
    if isinstance(reply, Reply | Failure | Drop):
        return reply
    if isinstance(reply, str | Mapping):
        return Reply(reply)
    raise InvalidOption(
        f"a scripted reply is a text, outputs by name, Reply, raw(), Failure or Drop, not "
        f"{type(reply).__name__}",
        details={"option": "replies"},
    )


@dataclass(frozen=True)
class Request:
    """One request as it arrived at a ``ScriptedLM``.

    Attributes:
        number: Its place among all requests, from 1.
        model: The model's name, without its provider.
        messages: The messages as they were sent, each with ``role`` and ``content``.
        params: All else that was sent (``temperature``, ``max_tokens``, ``response_format``, …).
        system: The text of the instructions.
        prompt: The text of the user's last message.
        inputs: The text of each input field in it, by name, as far as the prompt is one of DSPy's.
        outputs: Names of the outputs that it asks for.
    """

    number: int
    model: str
    messages: Sequence[Mapping[str, Any]]
    params: Mapping[str, Any]
    system: str
    prompt: str
    inputs: Mapping[str, str]
    outputs: tuple[str, ...]


def read(number: int, body: Mapping[str, Any]) -> tuple[Request, Prompt]:
    """A posted body as a request."""
    params = {name: value for name, value in body.items() if name not in {"model", "messages"}}
    prompt = OPENAI.prompt(dict(body))
    asked = form(prompt.system)
    request = Request(
        number,
        str(body.get("model", "")),
        body.get("messages", ()),
        params,
        prompt.system,
        prompt.user,
        inputs_of(prompt, asked.inputs),
        tuple(output.name for output in asked.outputs),
    )
    return request, prompt


def wire(reply: Reply | Failure, request: Request, prompt: Prompt) -> bytes:
    """A reply as the bytes of an HTTP response.

    Raises:
        ScriptError: It does not fit what the prompt asks for.
    """
    if isinstance(reply, Failure):
        headers = "" if reply.retry_after is None else f"retry-after: {reply.retry_after:g}\r\n"
        error = OPENAI.error(reply.status, request.model, reply.message, reply.code)
        return response(reply.status, msgspec.json.encode(error), headers)
    return response(200, msgspec.json.encode(_answer(reply, request, prompt)))


def streams(reply: Reply, request: Request, prompt: Prompt) -> Answer:
    """A reply as a stream.

    Raises:
        ScriptError: It does not fit what the prompt asks for.
    """
    answer = _answer(reply, request, prompt)
    pieces = cut(answer["choices"][0]["message"]["content"], reply.chunks)
    wanted = request.params.get("stream_options") or {}
    events = OPENAI.events(answer, pieces, usage=bool(wanted.get("include_usage")))
    # The first event says only that it begins.
    breaks = None if reply.breaks is None else reply.breaks + 1
    return streamed(events, pause=reply.pause, delay=reply.delay, breaks=breaks)


def _answer(reply: Reply, request: Request, prompt: Prompt) -> dict[str, Any]:
    text = _text(reply, form(prompt.system), prompt)
    usage = reply.usage or Usage(prompt.words, len(text.split()))
    tokens = (usage.prompt_tokens, usage.completion_tokens)
    return OPENAI.answer(request.number, request.model, text, tokens, reply.finish)


def _text(reply: Reply, asked: Form, prompt: Prompt) -> str:
    content = reply.content
    names = [output.name for output in asked.outputs]
    if isinstance(content, str):
        if reply.as_is or not names:
            return content
        if len(names) > 1:
            raise ScriptError(
                f"a text fills one output and the prompt asks for {', '.join(names)}: reply with a dict of "
                "them, or with raw(...) for a text that is sent as it is"
            )
        content = {names[0]: content}
    elif not names:
        raise ScriptError(
            "the prompt names no outputs (only those of the chat, JSON and XML adapters do), so outputs by "
            "name cannot be put in its form: reply with a text"
        )
    missing = [name for name in names if name not in content]
    unknown = [str(name) for name in content if name not in names]
    if missing or unknown:
        lacks = f"lacks {', '.join(missing)}" if missing else ""
        has = f"has {', '.join(unknown)}, for which nobody asked" if unknown else ""
        wrong = " and ".join(filter(None, (lacks, has)))
        raise ScriptError(f"the reply {wrong}: the prompt asks for {', '.join(names)}")
    try:
        return rendered(prompt, {name: content[name] for name in names})
    except (TypeError, ValueError) as error:
        raise ScriptError(f"the reply cannot be written: {error}") from error
