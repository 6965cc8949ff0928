"""How each provider writes an answer as the events of a stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from dspex.testing.chat import OPENAI, OpenAIChat
from tests.provider.dialects import AnthropicMessages, Dialect, Gemini
from tests.provider.request import Request


def _openai(answer: dict[str, Any], pieces: Sequence[str], request: Request) -> list[bytes]:
    wanted = request.body.get("stream_options") or {}
    return OPENAI.events(answer, pieces, usage=bool(wanted.get("include_usage")))


def _anthropic(answer: dict[str, Any], pieces: Sequence[str], _: Request) -> list[bytes]:
    usage = answer["usage"]
    begun = {**answer, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    said: list[dict[str, Any]] = [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
    ]
    said += [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
        for piece in pieces
    ]
    ended = {"stop_reason": answer["stop_reason"], "stop_sequence": None}
    said += [
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": ended, "usage": usage},
        {"type": "message_stop"},
    ]
    return [
        b"event: " + event["type"].encode() + b"\ndata: " + msgspec.json.encode(event) + b"\n\n"
        for event in said
    ]


def _gemini(answer: dict[str, Any], pieces: Sequence[str], _: Request) -> list[bytes]:
    (candidate,) = answer["candidates"]
    said = []
    for number, piece in enumerate(pieces, 1):
        content = {"role": "model", "parts": [{"text": piece}]}
        one = {"index": 0, "content": content}
        if number == len(pieces):
            one["finishReason"] = candidate["finishReason"]
        said.append({**answer, "candidates": [one]})
    return [b"data: " + msgspec.json.encode(event) + b"\r\n\r\n" for event in said]


_WRITERS: Mapping[type, Callable[[dict[str, Any], Sequence[str], Request], list[bytes]]] = {
    OpenAIChat: _openai,
    AnthropicMessages: _anthropic,
    Gemini: _gemini,
}


def text_in(answer: dict[str, Any]) -> str | None:
    """What the assistant says in an answer of any of these; None in what is no answer."""
    try:
        if "choices" in answer:
            found = answer["choices"][0]["message"]["content"]
        elif "candidates" in answer:
            found = answer["candidates"][0]["content"]["parts"][0]["text"]
        else:
            found = answer["content"][0]["text"]
    except (KeyError, IndexError, TypeError):
        return None
    return found if isinstance(found, str) else None


def streams(dialect: Dialect) -> bool:
    """Whether this provider streams in that dialect."""
    return type(dialect) in _WRITERS


def written(answer: dict[str, Any], pieces: Sequence[str], request: Request) -> list[bytes]:
    """The events of an answer whose text comes in these pieces."""
    return _WRITERS[type(request.dialect)](answer, pieces, request)
