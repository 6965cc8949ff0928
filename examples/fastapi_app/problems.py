"""dspex's errors as HTTP problems (RFC 9457), with what a remote caller may know.

Messages and details speak of models, keys' names, processes and limits. They go to the log; the client gets a
status and the request's id, by which the log has the rest.
"""

from __future__ import annotations

import math
from http import HTTPStatus

from fastapi.responses import JSONResponse

import dspex

STATUS: dict[type[dspex.DspexError], HTTPStatus] = {
    dspex.InvalidInput: HTTPStatus.UNPROCESSABLE_ENTITY,
    dspex.PayloadTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    dspex.LMContextWindow: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    dspex.RateLimited: HTTPStatus.TOO_MANY_REQUESTS,
    dspex.PoolClosed: HTTPStatus.SERVICE_UNAVAILABLE,
    dspex.PythonTimeout: HTTPStatus.GATEWAY_TIMEOUT,
    dspex.LMTimeout: HTTPStatus.GATEWAY_TIMEOUT,
}


def response(error: dspex.DspexError) -> JSONResponse:
    """The answer to a call that failed."""
    status = STATUS.get(type(error))
    if status is None:
        # All that is left is this service's affair: a fault of its own, unless trying again may help.
        status = HTTPStatus.SERVICE_UNAVAILABLE if error.retryable else HTTPStatus.INTERNAL_SERVER_ERROR
    headers = {} if error.retry_after is None else {"Retry-After": str(math.ceil(error.retry_after))}
    body = {"title": status.phrase, "status": status.value, "request_id": error.request_id}
    return JSONResponse(body, status.value, headers, media_type="application/problem+json")
