"""Programs that the settings name, and the modules that there are."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from dspex.errors import UnknownProgram
from dspex.server.answers import GenerateResponse, ModuleList, NamedProgramList, answer, answered
from dspex.server.asked import ExecuteRequest
from dspex.server.connected import while_connected
from dspex.server.context import OF_CALLS, Shared, problems

router = APIRouter()


@router.get(
    "/v1/programs",
    operation_id="list_named_programs",
    tags=["programs"],
    response_model=NamedProgramList,
    responses=problems(401, 413),
)
async def list_named(request: Request, shared: Shared) -> Response:
    """The programs of the settings file."""
    shared.tenant(request)  # who is nobody's is refused
    return answer({"programs": [{"name": name} for name in shared.runtime.core.settings.programs]})


@router.post(
    "/v1/programs/{name}",
    operation_id="run_named_program",
    tags=["programs"],
    response_model=GenerateResponse,
    responses=OF_CALLS,
)
async def run_named(name: str, body: ExecuteRequest, request: Request, shared: Shared) -> Response:
    """Run a program of the settings file. A client that disconnects stops the work."""
    given = body.given(shared.limits)
    prompt, inputs = given.pop("prompt"), given.pop("inputs") or {}
    program = await shared.named(request, name)
    if program is None:
        raise UnknownProgram("there is no program of that name; GET /v1/programs lists them")
    call = program.having(**given).acall(prompt, **inputs)
    return answered(await while_connected(request.receive, call))


@router.get(
    "/v1/modules",
    operation_id="list_modules",
    tags=["modules"],
    response_model=ModuleList,
    responses=problems(401, 413),
)
async def list_modules(request: Request, shared: Shared) -> Response:
    """The modules that calls can name, with their options."""
    modules = shared.adapter(request).capabilities().modules.values()
    return answer({"modules": list(modules)})
