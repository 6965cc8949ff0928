"""What spans say of models, tools and modules, in the names of OpenTelemetry's conventions for generative AI.

https://opentelemetry.io/docs/specs/semconv/gen-ai/ has them. What was said is only told when it is asked for:
without that, names, sizes and counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import dspy

from dspex.types import LMRequest, LMSpec, ToolSpec
from dspex.worker.spans import Span, Spans

# Providers by DSPy's name, where the conventions have another.
_PROVIDERS = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "google": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex": "gcp.vertex_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
_AGENTS = (dspy.ReAct, dspy.CodeAct, dspy.RLM, *([dspy.ReActV2] if hasattr(dspy, "ReActV2") else []))
# Characters of one text; a span is no place for a book.
_LONGEST = 20_000
#: What of a request is told as ``gen_ai.request.NAME``.
PARAMETERS = ("max_tokens", "temperature", "top_p", "top_k", "seed", "frequency_penalty", "presence_penalty")


# LM requests


def of_request(spec: LMSpec, request: Any, *, stream: bool, content: bool) -> tuple[str, dict[str, Any]]:
    """Name and attributes of an LM request, before it is sent."""
    provider, _, model = spec.asked.partition("/")
    config = request.config
    said: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": _PROVIDERS.get(provider, provider),
        "gen_ai.request.model": model or spec.asked,
    }
    for name in PARAMETERS:
        value = getattr(config, name, None)
        if isinstance(value, int | float):
            said[f"gen_ai.request.{name}"] = value
    if config.stop:
        said["gen_ai.request.stop_sequences"] = list(config.stop)
    if stream:
        said["gen_ai.request.stream"] = True
    said["gen_ai.output.type"] = "json" if config.response_format else "text"
    said |= _address(spec.base_url)
    if content:
        said |= _asked(request)
    return f"chat {said['gen_ai.request.model']}", said


def of_response(response: Any, *, content: bool) -> dict[str, Any]:
    """What a reply says."""
    usage = response.usage
    said: dict[str, Any] = {
        "gen_ai.response.model": response.model,
        "gen_ai.response.id": response.id,
        "gen_ai.response.finish_reasons": [response.finish_reason] if response.finish_reason else None,
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cache_read_tokens,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
    }
    if content:
        message = _message(response.message) | {"finish_reason": response.finish_reason or ""}
        said["gen_ai.output.messages"] = encoded([message])
    return {name: value for name, value in said.items() if value is not None}


def settle(
    span: Span,
    spans: Spans | None,
    outcome: Any,
    status: str,
    retries: int,
    pause: float | None,
    record: LMRequest | None,
) -> None:
    """Write down what became of an attempt, and end the span of its request with the last.

    Args:
        span: The request's span.
        spans: Those of its call.
        outcome: The response, or what was raised.
        status: ``"ok"``, or the code.
        retries: How many attempts there were before.
        pause: Seconds until the next; None of the last.
        record: What is recorded of the whole request.
    """
    if pause is not None:
        span.event("dspex.retry", {"error.type": status, "dspex.retry.wait": pause})
        return
    span.set(**{"dspex.lm.retries": retries, "dspex.lm.cost": None if record is None else record.cost})
    if isinstance(outcome, BaseException):
        span.end(status)
        return
    span.set(**of_response(outcome, content=spans is not None and spans.content))
    span.end()


def _address(base_url: str | None) -> dict[str, Any]:
    """Where it is sent, if that is not the provider's own place; without a user's name or password."""
    try:
        parts = urlsplit(base_url or "")
        host, port = parts.hostname, parts.port
    except ValueError:
        return {}
    if not host:
        return {}
    return {"server.address": host, "server.port": port or (80 if parts.scheme == "http" else 443)}


def _asked(request: Any) -> dict[str, Any]:
    said = {"gen_ai.input.messages": encoded([_message(message) for message in request.messages])}
    if isinstance(request.system, str):
        said["gen_ai.system_instructions"] = encoded([_text(request.system)])
    elif request.system:
        said["gen_ai.system_instructions"] = encoded([_part(part) for part in request.system])
    return said


def _message(message: Any) -> dict[str, Any]:
    return {"role": message.role, "parts": [_part(part) for part in message.parts]}


def _part(part: Any) -> dict[str, Any]:
    if part.type == "tool_call":
        return {"type": "tool_call", "id": part.id, "name": part.name, "arguments": part.input}
    text = getattr(part, "text", None)
    if isinstance(text, str):
        return _text(text, "reasoning" if part.type in {"thinking", "reasoning"} else "text")
    return {"type": str(part.type)}  # an image, a sound: that there is one


def _text(text: str, kind: str = "text") -> dict[str, Any]:
    return {"type": kind, "content": text[:_LONGEST]}


# Tools


def of_tool(spec: ToolSpec, arguments: Mapping[str, Any], *, content: bool) -> tuple[str, dict[str, Any]]:
    """Name and attributes of a call of a tool."""
    said: dict[str, Any] = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": spec.name,
        # What is run on this side and reaches out by itself is an extension there.
        "gen_ai.tool.type": "extension" if spec.mcp else "function",
        "dspex.tool.origin": "mcp" if spec.mcp else "caller" if spec.path is None else "worker",
    }
    if content:
        said["gen_ai.tool.description"] = spec.description
        said["gen_ai.tool.call.arguments"] = encoded(arguments)
    return f"execute_tool {spec.name}", said


def of_result(
    arguments: Mapping[str, Any], value: Any, status: str, approval: str, *, content: bool
) -> dict[str, Any]:
    """What became of a call of a tool, with the arguments that it had in the end."""
    said: dict[str, Any] = {"dspex.tool.approval": "denied" if status == "denied" else approval or None}
    if content:
        said["gen_ai.tool.call.arguments"] = encoded(arguments)
        if status == "ok":
            said["gen_ai.tool.call.result"] = encoded(value)
    return said


# Modules


def of_module(
    instance: Any, predictor: str | None, inputs: Any, *, content: bool
) -> tuple[str, dict[str, Any]]:
    """Name and attributes of a module's run."""
    kind = _kind(instance)
    path, name = kind.__module__, kind.__qualname__
    said: dict[str, Any] = {
        "dspex.module": f"dspy.{name}" if path.startswith("dspy.") else f"{path}:{name}",
    }
    name = f"module {kind.__name__}"
    if isinstance(instance, _AGENTS):
        said |= {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": kind.__name__}
        name = f"invoke_agent {kind.__name__}"
    if predictor:
        said["dspex.predictor"] = predictor
    if content:
        given = inputs.get("kwargs", inputs) if isinstance(inputs, dict) else inputs
        said["dspex.inputs"] = encoded(given)
    return name, said


def _kind(instance: Any) -> type[Any]:
    """The class as its user knows it: not one that is derived from it here."""
    known = (each for each in type(instance).__mro__ if not each.__module__.startswith("dspex."))
    return next(known, type(instance))


def outputs(prediction: Any) -> str:
    """What a module gave."""
    store = getattr(prediction, "_store", None)
    return encoded(store if isinstance(store, dict) else prediction)


def encoded(value: Any) -> str:
    """A value as JSON; of what JSON has no form for, its class."""
    try:
        return json.dumps(_shortened(value), default=_named, ensure_ascii=False)
    except Exception:  # noqa: BLE001 (classes of the user's may do anything when they are looked at)
        return json.dumps(_named(value))


def _shortened(value: Any, depth: int = 6) -> Any:
    if isinstance(value, str):
        return str(value)[:_LONGEST].encode(errors="replace").decode()
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth and isinstance(value, Mapping):
        return {str(name): _shortened(each, depth - 1) for name, each in value.items()}
    if depth and isinstance(value, list | tuple | set):
        return [_shortened(each, depth - 1) for each in _first(value)]
    dumped = getattr(value, "model_dump", None)
    if depth and callable(dumped) and not isinstance(value, type | dspy.Type):
        return _shortened(dumped(), depth - 1)
    return _named(value)


def _first(values: Iterable[Any], most: int = 200) -> list[Any]:
    return [each for each, _ in zip(values, range(most), strict=False)]


def _named(value: Any) -> str:
    return f"<{type(value).__qualname__}>"
