"""Calls of modules: answered at their end, or as they go."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from dspex.server.answers import GenerateResponse, answered
from dspex.server.asked import GenerateRequest, StreamRequest
from dspex.server.connected import while_connected
from dspex.server.context import OF_CALLS, Shared
from dspex.server.sse import EVENT_SCHEMA, EventStream, begun

router = APIRouter(tags=["calls"])
_STREAM = """\
The events of a call, in order, as server-sent events. Each is named, and its data is JSON: `started`, `delta`
(the next piece of an output), `status`, `tool_call`, `tool_result`, `usage`, then `final`, with the response
that `/v1/generate` would have given, or `error`, with problem details. A comment comes after 15 seconds in
which nothing else did. What fails before the first event is answered with its status and no stream.
"""


@router.post("/v1/generate", operation_id="generate", response_model=GenerateResponse, responses=OF_CALLS)
async def generate(body: GenerateRequest, request: Request, shared: Shared) -> Response:
    """Run a module and wait for its outputs. A client that disconnects stops the work."""
    call = shared.adapter(request).agenerate(**body.given(shared.limits))
    return answered(await while_connected(request.receive, call))


@router.post(
    "/v1/stream",
    operation_id="stream",
    description=_STREAM,
    response_class=Response,
    responses={
        200: {
            "description": "The events of the call.",
            "content": {
                "text/event-stream": {
                    "itemSchema": EVENT_SCHEMA,
                    "example": 'event: delta\ndata: {"field":"answer","text":"Par","stage":1}\n\n',
                }
            },
        },
        **OF_CALLS,
    },
)
async def stream(body: StreamRequest, request: Request, shared: Shared) -> Response:
    """Run a module and hear what happens while it runs."""
    events = shared.adapter(request).astream(**body.given(shared.limits))
    first = await while_connected(request.receive, begun(events))
    return EventStream(first, events, request.url.path)
