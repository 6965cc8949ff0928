"""OpenAI's chat protocol as a provider speaks it: prompts read, answers and errors written."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

#: The one code that means the same to every provider: the prompt is longer than the model's window.
CONTEXT_LENGTH = "context_length_exceeded"

_CODES: Mapping[int, tuple[str, str | None]] = {  # status → the error's type and its code
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
    500: ("server_error", "server_error"),
    503: ("server_error", "service_unavailable"),
}
_MESSAGES: Mapping[int, str] = {
    401: "Incorrect API key provided.",
    404: "The model `{model}` does not exist or you do not have access to it.",
    429: "Rate limit reached for {model}. Please try again later.",
    500: "The server had an error while processing your request.",
    503: "The engine is currently overloaded, please try again later.",
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """The text of a request, whoever wrote it down.

    Attributes:
        system: The instructions; empty when there are none.
        user: The last message of the user.
        words: Whitespace-separated words of the instructions and of every message.
        json: Whether the request itself demands JSON, apart from what its text says.
    """

    system: str
    user: str
    words: int
    json: bool


def text_of(content: Any) -> str:
    """The text of a message's content, which is a string or a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "\n".join(part["text"] for part in content if isinstance(part, dict) and "text" in part)


def prompt_of(system: str, messages: list[tuple[str, str]], *, json: bool) -> Prompt:
    """A prompt from its instructions and its messages, each a role and a text."""
    user = next((text for role, text in reversed(messages) if role == "user"), "")
    words = len(system.split()) + sum(len(text.split()) for _, text in messages)
    return Prompt(system, user, words, json)


class OpenAIChat:
    """``POST /v1/chat/completions``, which many other providers speak as well."""

    def prompt(self, body: dict[str, Any]) -> Prompt:
        """Read the prompt of a request."""
        messages = [(row["role"], text_of(row.get("content"))) for row in body.get("messages", ())]
        system = "\n".join(text for role, text in messages if role in ("system", "developer"))
        rest = [(role, text) for role, text in messages if role not in ("system", "developer")]
        wanted = (body.get("response_format") or {}).get("type", "text")
        return prompt_of(system, rest, json=wanted != "text")

    def answer(
        self, number: int, model: str, text: str, tokens: tuple[int, int], finish: str = "stop"
    ) -> dict[str, Any]:
        """Write an assistant's text.

        Args:
            number: The request's number, for the answer's id.
            model: The model that answers.
            text: What it says.
            tokens: Those of the prompt and those of the text.
            finish: Why it stopped.
        """
        message = {"role": "assistant", "content": text}
        return {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
            "usage": {
                "prompt_tokens": tokens[0],
                "completion_tokens": tokens[1],
                "total_tokens": sum(tokens),
            },
        }

    def events(self, answer: dict[str, Any], chunks: Sequence[str], *, usage: bool) -> list[bytes]:
        """An answer as the events of a stream.

        Args:
            answer: The answer, as ``answer`` writes it.
            chunks: Its text in pieces.
            usage: Whether the last event tells the tokens.
        """
        said = {name: answer[name] for name in ("id", "created", "model")}
        said["object"] = "chat.completion.chunk"
        finish = answer["choices"][0]["finish_reason"]
        deltas: list[tuple[dict[str, str], str | None]] = [({"role": "assistant", "content": ""}, None)]
        deltas += [({"content": chunk}, None) for chunk in chunks]
        deltas.append(({}, finish))
        events = [
            {**said, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
            for delta, reason in deltas
        ]
        if usage:
            events.append({**said, "choices": [], "usage": answer["usage"]})
        return [*(b"data: " + msgspec.json.encode(event) + b"\n\n" for event in events), b"data: [DONE]\n\n"]

    def error(self, status: int, model: str, message: str | None, code: str | None) -> dict[str, Any]:
        """Write an error; a message or code left out is the one usual for the status."""
        kind, usual = _CODES.get(status, ("invalid_request_error" if status < 500 else "server_error", None))
        if message is None:
            message = _MESSAGES.get(status, "Request failed with status {status}.")
            if status == 400 and code == CONTEXT_LENGTH:
                message = "This model's maximum context length is 8192 tokens. Please reduce the messages."
            message = message.format(model=model, status=status)
        return {"error": {"message": message, "type": kind, "param": None, "code": code or usual}}


def cut(text: str, chunks: int | Sequence[str] | None) -> Sequence[str]:
    """A text in pieces: of so many characters, as they are given, or word by word."""
    if chunks is None:
        return re.findall(r"\s*\S+|\s+$", text)
    if isinstance(chunks, int):
        return [text[at : at + chunks] for at in range(0, len(text), chunks)]
    return chunks


OPENAI = OpenAIChat()
