"""How each provider writes a prompt, an answer and an error as JSON."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Protocol
from urllib.parse import unquote

from dspex.testing.chat import CONTEXT_LENGTH, OPENAI, Prompt, prompt_of, text_of


class Dialect(Protocol):
    """One provider's wire format."""

    def prompt(self, body: dict[str, Any]) -> Prompt:
        """Read the prompt of a request."""

    def answer(self, number: int, model: str, text: str, tokens: tuple[int, int]) -> dict[str, Any]:
        """Write an assistant's text; ``tokens`` are those of the prompt and of the text."""

    def error(self, status: int, model: str, message: str | None, code: str | None) -> dict[str, Any]:
        """Write an error as the provider does; a message or code left out is the one usual for the status."""


class AnthropicMessages:
    """``POST /v1/messages``."""

    kinds: ClassVar[dict[int, str]] = {
        400: "invalid_request_error",
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        503: "overloaded_error",
        504: "timeout_error",
        529: "overloaded_error",
    }
    messages: ClassVar[dict[int, str]] = {
        401: "invalid x-api-key",
        404: "model: {model} was not found",
        429: "This request would exceed your account's rate limit. Please try again later.",
        500: "Internal server error",
        503: "Overloaded",
    }

    def prompt(self, body: dict[str, Any]) -> Prompt:
        messages = [(row["role"], text_of(row.get("content"))) for row in body.get("messages", ())]
        wanted = (body.get("output_config") or {}).get("format") or body.get("output_format")
        return prompt_of(text_of(body.get("system")), messages, json=wanted is not None)

    def answer(self, number: int, model: str, text: str, tokens: tuple[int, int]) -> dict[str, Any]:
        return {
            "id": f"msg_{number}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": tokens[0], "output_tokens": tokens[1]},
        }

    def error(self, status: int, model: str, message: str | None, code: str | None) -> dict[str, Any]:
        kind = self.kinds.get(status, "invalid_request_error" if status < 500 else "api_error")
        if message is None:
            message = self.messages.get(status, "Request failed with status {status}.")
            if status == 400 and code == CONTEXT_LENGTH:
                message = "prompt is too long: 200001 tokens > 200000 maximum"
            message = message.format(model=model, status=status)
        if code is not None and code != CONTEXT_LENGTH:  # Anthropic has no such code, only the message
            kind = code
        return {"type": "error", "error": {"type": kind, "message": message}}


class Gemini:
    """``POST /v1beta/models/{model}:generateContent``."""

    states: ClassVar[dict[int, str]] = {
        400: "INVALID_ARGUMENT",
        401: "UNAUTHENTICATED",
        403: "PERMISSION_DENIED",
        404: "NOT_FOUND",
        429: "RESOURCE_EXHAUSTED",
        503: "UNAVAILABLE",
        504: "DEADLINE_EXCEEDED",
    }
    messages: ClassVar[dict[int, str]] = {
        401: "API key not valid. Please pass a valid API key.",
        404: "models/{model} is not found for API version v1beta, or is not supported for generateContent.",
        429: "You exceeded your current quota. Please try again later.",
        500: "An internal error has occurred. Please retry.",
        503: "The model is overloaded. Please try again later.",
    }

    def prompt(self, body: dict[str, Any]) -> Prompt:
        messages = [(row.get("role", "user"), text_of(row.get("parts"))) for row in body.get("contents", ())]
        system = text_of((body.get("systemInstruction") or {}).get("parts"))
        wanted = (body.get("generationConfig") or {}).get("responseMimeType")
        return prompt_of(system, messages, json=wanted == "application/json")

    def answer(self, number: int, model: str, text: str, tokens: tuple[int, int]) -> dict[str, Any]:
        content = {"role": "model", "parts": [{"text": text}]}
        return {
            "candidates": [{"index": 0, "content": content, "finishReason": "STOP"}],
            "usageMetadata": {
                "promptTokenCount": tokens[0],
                "candidatesTokenCount": tokens[1],
                "totalTokenCount": sum(tokens),
            },
            "modelVersion": model,
            "responseId": f"gemini-{number}",
        }

    def error(self, status: int, model: str, message: str | None, code: str | None) -> dict[str, Any]:
        state = self.states.get(status, "FAILED_PRECONDITION" if status < 500 else "INTERNAL")
        if message is None:
            message = self.messages.get(status, "Request failed with status {status}.")
            if status == 400 and code == CONTEXT_LENGTH:
                message = (
                    "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576)."
                )
            message = message.format(model=model, status=status)
        if code is not None and code != CONTEXT_LENGTH:  # Gemini has no such code, only the message
            state = code
        return {"error": {"code": status, "message": message, "status": state}}


class BedrockConverse:
    """``POST /model/{model}/converse``."""

    messages: ClassVar[dict[int, str]] = {
        401: "The security token included in the request is invalid.",
        403: "The security token included in the request is invalid.",
        404: "The provided model identifier is invalid.",
        429: "Too many requests, please wait before trying again.",
        500: "The system encountered an unexpected error during processing. Try your request again.",
        503: "Bedrock is unable to process your request.",
    }

    def prompt(self, body: dict[str, Any]) -> Prompt:
        messages = [(row["role"], text_of(row.get("content"))) for row in body.get("messages", ())]
        return prompt_of(text_of(body.get("system")), messages, json="outputConfig" in body)

    def answer(self, number: int, model: str, text: str, tokens: tuple[int, int]) -> dict[str, Any]:
        return {
            "metrics": {"latencyMs": 1},
            "output": {"message": {"role": "assistant", "content": [{"text": text}]}},
            "stopReason": "end_turn",
            "usage": {"inputTokens": tokens[0], "outputTokens": tokens[1], "totalTokens": sum(tokens)},
        }

    def error(self, status: int, model: str, message: str | None, code: str | None) -> dict[str, Any]:
        if message is None:
            message = self.messages.get(status, f"Request failed with status {status}.")
            if status == 400 and code == CONTEXT_LENGTH:
                message = "Input is too long for requested model."
        return {"message": message}


ANTHROPIC, GEMINI, BEDROCK = AnthropicMessages(), Gemini(), BedrockConverse()
# Each with the model that the path names; where it names none the body does.
_ROUTES: tuple[tuple[str, Dialect], ...] = (
    (r"/(?:inference/|api/|openai/)?v1/chat/completions", OPENAI),
    (r"/openai/deployments/([^/]+)/chat/completions", OPENAI),
    (r"/v1/messages", ANTHROPIC),
    (r"/v1beta/models/([^/]+):(?:generateContent|streamGenerateContent)", GEMINI),
    (r"/v1/projects/[^/]+/locations/[^/]+/publishers/google/models/([^/]+):generateContent", GEMINI),
    (r"/v1/projects/[^/]+/locations/[^/]+/publishers/anthropic/models/([^/]+):rawPredict", ANTHROPIC),
    (r"/model/([^/]+)/converse", BEDROCK),
)


def route(path: str) -> tuple[Dialect, str] | None:
    """The dialect of a path and the model that the path names (empty: the body names it); None if unknown."""
    for pattern, dialect in _ROUTES:
        if found := re.fullmatch(pattern, path):
            return dialect, unquote("".join(found.groups()))
    return None
