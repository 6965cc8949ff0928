"""Programs that sessions keep."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from dspex.adapter.session.session import Session
from dspex.server.answers import GenerateResponse, Program, ProgramList, answer, answered
from dspex.server.asked import CreateProgramRequest, ExecuteRequest
from dspex.server.connected import while_connected
from dspex.server.context import OF_CALLS, Shared
from dspex.session.names import check

router = APIRouter(tags=["sessions"])
SessionId = Annotated[str, Path(min_length=1, max_length=200, description="The session's id.")]
ProgramId = Annotated[str, Path(min_length=1, max_length=200, description="The program's id.")]


@router.post(
    "/v1/sessions/{session_id}/programs",
    operation_id="create_program",
    status_code=201,
    response_model=Program,
    responses=OF_CALLS,
)
async def create_program(
    session_id: SessionId, body: CreateProgramRequest, request: Request, shared: Shared
) -> Response:
    """Keep a program in a session, which is made if there is none."""
    making = shared.adapter(request).acreate_program(session=session_id, **body.given(shared.limits))
    made = await while_connected(request.receive, making)
    return answer(
        {"id": made.id, "name": made.name, "session_id": made.session_id, "version": made.version}, 201
    )


@router.get(
    "/v1/sessions/{session_id}/programs",
    operation_id="list_programs",
    response_model=ProgramList,
    responses=OF_CALLS,
)
async def list_programs(session_id: SessionId, request: Request, shared: Shared) -> Response:
    """The programs of a session."""
    adapter = shared.adapter(request)
    # Not adapter.asession(), which would make one: to look is not to use.
    session = Session(adapter, shared.tenant(request) or "", check("a session's id", session_id))
    return answer({"programs": msgspec.to_builtins(await session.aprograms())})


@router.post(
    "/v1/sessions/{session_id}/programs/{program_id}/execute",
    operation_id="execute_program",
    response_model=GenerateResponse,
    responses=OF_CALLS,
)
async def execute_program(
    session_id: SessionId,
    program_id: ProgramId,
    body: ExecuteRequest,
    request: Request,
    shared: Shared,
) -> Response:
    """Run a program of a session. A client that disconnects stops the work."""
    call = shared.adapter(request).aexecute_program(
        program_id, session_id=session_id, **body.given(shared.limits)
    )
    return answered(await while_connected(request.receive, call))
