"""What a remote caller is told of a failure: a status, and problem details as RFC 9457 has them.

dspex's own messages say what to mend, and name models, variables, files and limits: they are for the log.
A remote caller gets those that are about what was sent, and of all others one sentence per code.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from dspex.errors import DspexError, NotAllowed
from dspex.server.wording import over_http
from dspex.wire.jsonready import json_ready

_log = logging.getLogger("dspex.server")
MEDIA_TYPE = "application/problem+json"

#: The status of every code.
STATUS: Mapping[str, int] = {
    "error": 500,
    # Refused: the caller's to mend, but for what the operator did not set up.
    "refused": 422,
    "module_not_found": 404,
    "invalid_signature": 422,
    "invalid_input": 422,
    "invalid_option": 422,
    "unknown_provider": 422,
    "lm_not_configured": 503,
    "unknown_program": 404,
    "unknown_session": 404,
    "session_expired": 404,
    "payload_too_large": 413,
    "budget_exceeded": 429,
    "rate_limited": 429,
    "not_allowed": 403,
    # The pool.
    "pool_error": 503,
    "pool_saturated": 503,
    "queue_timeout": 503,
    "pool_unhealthy": 503,
    "pool_closed": 503,
    "worker_lost": 503,
    "poison_call": 500,
    # The call.
    "call_error": 500,
    "python_timeout": 504,
    "cancelled": 503,
    "python_error": 500,
    "tool_error": 500,
    "sandbox_error": 502,
    "sandbox_missing": 503,
    "parse_error": 502,
    "result_too_large": 500,
    # The provider. Its refusal of the key is no 401: the key is the operator's.
    "lm_error": 502,
    "lm_auth": 502,
    "lm_billing": 502,
    "lm_rate_limited": 429,
    "lm_timeout": 504,
    "lm_unavailable": 502,
    "lm_context_window": 413,
    "lm_invalid_request": 422,
    "lm_unsupported": 422,
    "lm_circuit_open": 503,
    # Sessions and their store.
    "state_error": 500,
    "store_error": 503,
    "session_quota": 429,
    "conflict": 409,
}

# Codes whose messages and details are about what the caller sent.
_OPEN = frozenset(
    {
        "module_not_found",
        "invalid_signature",
        "invalid_input",
        "invalid_option",
        "unknown_session",
        "rate_limited",
        "conflict",
    }
)
# Codes whose details are, and whose messages say what to write in Python.
_REWORDED = frozenset({"unknown_program", "session_expired", "payload_too_large", "python_timeout"})
# Details of an error that stands in the operator's own files or environment.
_INSIDE = frozenset({"file", "line", "variable", "frames", "traceback", "pid"})
# What options are named after that stand in the settings.
_SETTINGS = ("program.", "lm.", "pool.")
_TOLD = frozenset(
    {
        "elapsed", "expected", "field", "fields", "known", "limit", "missing", "module", "option", "path",
        "phase", "position", "size", "so_far", "stage", "unknown",
    }
)  # fmt: skip

_SENTENCES: Mapping[str, str] = {
    "unknown_program": "no such program here; GET /v1/sessions/{id}/programs lists those of a session",
    "session_expired": "the session has expired, and what it kept is gone; a new program begins a new one",
    "payload_too_large": "what was sent is larger than the limit; send less",
    "python_timeout": "the call did not end in time and was stopped; a larger `timeout` may be asked for",
    "unknown_provider": "no such provider is known here",
    "lm_not_configured": "the language model that was asked for is not set up here; ask whoever runs this",
    "budget_exceeded": "the call would go over a budget; `details` say which",
    "not_allowed": "whoever runs this server does not allow what was asked for",
    "pool_saturated": "too many calls wait already; try again later",
    "queue_timeout": "no worker was free in time; try again later",
    "pool_unhealthy": "workers do not start at the moment; try again later",
    "pool_closed": "the server is stopping; ask another one, or try again later",
    "worker_lost": "the worker that ran the call was lost; try again",
    "poison_call": "the call killed its worker twice and is not tried again",
    "cancelled": "the call was stopped before it ended",
    "python_error": "the program failed; the server's log has the error under this request id",
    "tool_error": "a tool of the program failed",
    "sandbox_error": "code that the model wrote failed",
    "sandbox_missing": "there is no sandbox here for code that a model writes",
    "parse_error": "the model's answer has not the outputs that the signature asks for; try again",
    "result_too_large": "the result is larger than the limit",
    "lm_auth": "the model's provider refused the server's key; tell whoever runs this",
    "lm_billing": "the model's provider refused for reasons of payment or quota; tell whoever runs this",
    "lm_rate_limited": "the model's provider limits the rate of requests; try again later",
    "lm_timeout": "the model's provider took too long; try again",
    "lm_unavailable": "the model's provider cannot be reached, or failed; try again later",
    "lm_context_window": "the prompt is longer than the model's context window; send less",
    "lm_invalid_request": "the model's provider refused the request; correct its inputs and options",
    "lm_unsupported": "the model cannot do what was asked",
    "lm_circuit_open": "the model's provider failed so often that it is left alone for a while",
    "store_error": "the store of sessions cannot be used at the moment; try again later",
    "session_quota": "no more sessions may be made at the moment",
}
#: What is told where nothing may be.
UNKNOWN = "the call failed; the server's log has the error under this request id"

# As RFC 9110 has them; Python does from 3.13 on.
_TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}

#: Seconds to wait, said with 429 and 503 where nothing better is known.
RETRY_AFTER = 1


class Problem(BaseModel):
    """Why a request failed, as RFC 9457 has it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:dspex:error:invalid_input",
                    "title": "Unprocessable Content",
                    "status": 422,
                    "detail": "missing input 'question'",
                    "instance": "/v1/generate",
                    "code": "invalid_input",
                    "retryable": False,
                    "request_id": "5f0c3a9e2b7d4c18",
                    "retry_after": None,
                    "details": {"missing": ["question"]},
                }
            ]
        }
    )

    type: str = Field(description="A URI that names the kind of problem; its end is `code`.")
    title: str = Field(description="The status in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What went wrong, and what to do.")
    instance: str = Field(description="The path that was asked for.")
    code: str = Field(description="Stable name of the cause, for programs.")
    retryable: bool = Field(description="Whether the same request may succeed later without a change.")
    request_id: str | None = Field(description="The call, as the server's log names it.")
    retry_after: float | None = Field(description="Seconds to wait before trying again, where known.")
    details: dict[str, Any] = Field(description="Facts about this failure.")


class Forbidden(NotAllowed):
    """What the server itself refuses; its message is written for the caller."""


def told(error: DspexError) -> tuple[str, dict[str, Any]]:
    """What a remote caller may know of an error: a text, and details."""
    if isinstance(error, Forbidden):
        return error.message, _few(error.details)
    if error.code in _OPEN | _REWORDED and not _is_of_the_inside(error):
        details = _few(error.details)
        if error.code in _OPEN and isinstance(expected := details.get("expected"), str):
            details["expected"] = over_http(expected)
        return _SENTENCES.get(error.code) or over_http(error.message), details
    return _SENTENCES.get(error.code, UNKNOWN), {
        name: value for name, value in error.details.items() if name in _of_a_budget(error) | {"so_far"}
    }


def _of_a_budget(error: DspexError) -> frozenset[str]:
    """The details that a caller may know of a budget: how much others have spent is not among them."""
    if error.code != "budget_exceeded":
        return frozenset()
    own = error.details.get("scope") == "call"
    return frozenset({"scope", "unit", "limit", "spent"} if own else {"scope", "unit"})


def _few(details: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in details.items() if name in _TOLD}


def _is_of_the_inside(error: DspexError) -> bool:
    """Whether it is about what stands in the operator's files and environment, and not in a request."""
    if _INSIDE & error.details.keys() or str(error.details.get("option", "")).startswith(_SETTINGS):
        return True
    # A place in what was sent, such as `inputs.question`; else a module's or a file's.
    return bool({":", "/"} & set(str(error.details.get("path", ""))))


def of_error(error: DspexError, instance: str, request_id: str | None) -> dict[str, Any]:
    """The problem details of an error."""
    status = STATUS.get(error.code, 500)
    detail, details = told(error)
    return _body(
        status,
        error.code,
        detail,
        instance,
        error.request_id or request_id,
        retryable=error.retryable,
        # Who comes again in a second for a budget that is spent would do so all day.
        retry_after=error.retry_after
        if error.code == "budget_exceeded"
        else _wait(status, error.retry_after),
        details=json_ready(details),
    )


def log(problem: Mapping[str, Any], error: DspexError) -> None:
    """Write down what the caller is not told, under the id that he is."""
    if problem["status"] >= HTTPStatus.INTERNAL_SERVER_ERROR or problem["detail"] == UNKNOWN:
        name = problem["request_id"]
        said = {"request_id": name, "code": error.code, "status": problem["status"]}
        _log.warning("%s: %s: %s", name, error.code, error.message, extra=said)


def log_bug(request_id: str | None, error: Exception) -> None:
    """Write down a fault of the server itself."""
    kind = type(error).__name__
    _log.error(
        "%s: the server failed: %s", request_id, kind, exc_info=error, extra={"request_id": request_id}
    )


def of_status(
    status: int, code: str, detail: str, instance: str, request_id: str | None, **details: Any
) -> dict[str, Any]:
    """The problem details of what is refused before a call is made of it."""
    wait = _wait(status, None)
    retryable = status in {408, 429, 503}
    return _body(
        status, code, detail, instance, request_id, retryable=retryable, retry_after=wait, details=details
    )


def _wait(status: int, known: float | None) -> float | None:
    return known if known is not None or status not in {429, 503} else RETRY_AFTER


def _body(
    status: int, code: str, detail: str, instance: str, request_id: str | None, **more: Any
) -> dict[str, Any]:
    return {
        "type": f"urn:dspex:error:{code}",
        "title": _TITLES.get(status) or HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": instance,
        "code": code,
        "request_id": request_id,
        **more,
    }


def response(problem: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """The answer that tells a problem."""
    said = dict(headers or {})
    if problem["retry_after"] is not None:
        said["Retry-After"] = str(max(1, math.ceil(problem["retry_after"])))
    if problem["request_id"]:
        said["X-Request-Id"] = problem["request_id"]
    return Response(msgspec.json.encode(problem), problem["status"], said, media_type=MEDIA_TYPE)
