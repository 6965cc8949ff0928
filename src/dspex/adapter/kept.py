"""What a batch's journal keeps of a response, and the response made of it again."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from dspex.adapter.response import Response, Timing
from dspex.types import LMRequest, Usage
from dspex.wire.jsonready import json_ready
from dspex.wire.values import decode, encode

_PLAIN = (str, int, float, bool, type(None))
_UNTIMED = Timing(0.0, 0.0, 0.0, 0.0, 0.0)


def kept(response: Response) -> dict[str, Any]:
    """What is kept: outputs, completions, requests, and what they have cost. JSON that people can read.

    Outputs that JSON does not have are kept as values are sent, too; of classes they come back as dicts.
    """
    said: dict[str, Any] = {
        "outputs": json_ready(response.outputs),
        "model": response.model,
        "cost": response.cost,
        "attempts": response.attempts,
        "request_id": response.request_id,
        "timing": msgspec.to_builtins(response.timing),
        "requests": msgspec.to_builtins(response.requests),
    }
    if not _is_json(response.outputs):
        said["exact"] = base64.b64encode(b"".join(encode(response.outputs)[0])).decode()
    if response.completions is not None:
        said["completions"] = base64.b64encode(b"".join(encode(response.completions)[0])).decode()
    if response.program_version is not None:
        said["version"] = response.program_version
    return said


def rebuilt(said: dict[str, Any]) -> Response:
    """A response from what was kept of it."""
    requests = msgspec.convert(said.get("requests", []), list[LMRequest])
    completions = said.get("completions")
    response = Response(
        decode(base64.b64decode(said["exact"])) if "exact" in said else said["outputs"],
        completions=None if completions is None else decode(base64.b64decode(completions)),
        usage=sum((request.usage for request in requests), Usage()),
        cost=said.get("cost"),
        timing=msgspec.convert(said["timing"], Timing) if "timing" in said else _UNTIMED,
        attempts=said.get("attempts", 1),
        requests=requests,
        worker=0,
        request_id=said.get("request_id", ""),
        model=said.get("model"),
    )
    response.program_version = said.get("version")
    return response


def _is_json(value: Any) -> bool:
    """Whether JSON gives back the very value."""
    if type(value) is dict:
        return all(type(key) is str and _is_json(part) for key, part in value.items())
    if type(value) is list:
        return all(map(_is_json, value))
    if type(value) is float:
        return value == value and abs(value) != float("inf")  # noqa: PLR0124 (not NaN)
    return type(value) in _PLAIN and not (type(value) is int and abs(value) >= 2**63)
