"""The application: routes, the edge in front of them, and the form of every failure."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from dspex.errors import DspexError
from dspex.server import problems
from dspex.server.asked import Limits
from dspex.server.context import Context
from dspex.server.edge import OPEN_PATHS, Edge
from dspex.server.keys import Keys
from dspex.server.routes import calls, health, programs, sessions

if TYPE_CHECKING:
    from dspex.adapter.runtime import Runtime

_CODES = {404: "not_found", 405: "method_not_allowed", 408: "timeout", 413: "payload_too_large"}
#: Bytes that a body may have: each is in memory until its call has been sent, and many may come at once.
MAX_BODY = 64 * 2**20
#: The routers of the server itself.
ROUTERS: Sequence[APIRouter] = (calls.router, sessions.router, programs.router, health.router)


def _by_key(request: Request) -> str | None:
    tenant: str | None = request.scope["state"].get("tenant")
    return tenant


def create_app(
    runtime: Runtime,
    *,
    key: str | None = None,
    tenant_keys: Mapping[str, str] = MappingProxyType({}),
    timeout: float = 120.0,
    allow_models: bool = False,
    max_body: int = MAX_BODY,
    body_timeout: float = 30.0,
    tenant_of: Callable[[Request], str | None] = _by_key,
    routers: Sequence[APIRouter] = (),
    opens: bool = True,
) -> FastAPI:
    """The application that ``dspex serve`` serves.

    Args:
        runtime: Runs the calls.
        key: The key that callers have to show; None asks for none.
        tenant_keys: Keys by tenant: whoever shows one of these is that tenant.
        timeout: The most seconds that a call may take, and what it has when it says nothing.
        allow_models: Whether callers may name models, and not only the profiles of the settings.
        max_body: Bytes that the body of a request may have; never more than the settings' ``max_payload``.
        body_timeout: Seconds within which the body of a request has to come.
        tenant_of: Gives the tenant of a request; else it is the one whose key is shown.
        routers: Routes besides.
        opens: Whether it opens the runtime when it starts and closes it when it stops.

    Raises:
        InvalidOption: A tenant's name is none, a key is empty, or two are the same.
    """
    keys = Keys(key, tenant_keys)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        if opens:
            async with runtime:
                yield
        else:
            yield

    import dspex

    app = FastAPI(
        title="dspex",
        summary="DSPy programs in a supervised pool of worker processes.",
        version=dspex.__version__,
        lifespan=lifespan,
        docs_url=None,  # their scripts come from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    limits = Limits(timeout, allow_models, lambda: runtime.core.settings.budgets)
    app.state.dspex = Context(runtime, limits, tenant_of)
    for router in (*ROUTERS, *routers):
        app.include_router(router)
    app.add_exception_handler(DspexError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ClientDisconnect, _on_left)
    app.add_exception_handler(Exception, _on_bug)
    # Outermost of what can be added; it is plain ASGI, and not wrapped once more for each request.
    limit = min(max_body, runtime.core.settings.max_payload)
    app.add_middleware(Edge, keys=keys, max_body=limit, body_timeout=body_timeout)
    _document(app, with_key=bool(keys))
    return app


def _document(app: FastAPI, *, with_key: bool) -> None:
    """Have the OpenAPI document made with the form of problems in it, and with how the key is shown."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
            components = made.setdefault("components", {})
            schemas = components.setdefault("schemas", {})
            schemas["Problem"] = problems.Problem.model_json_schema()
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            if with_key:
                components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
                made["security"] = [{"key": []}]
                for path in OPEN_PATHS & made["paths"].keys():
                    made["paths"][path]["get"]["security"] = []
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _id(request: Request) -> str | None:
    found: str | None = request.scope.get("state", {}).get("request_id")
    return found


async def _on_error(request: Request, error: Exception) -> Response:
    """All of it for the log, and for the caller what he may know."""
    assert isinstance(error, DspexError)
    problem = problems.of_error(error, request.url.path, _id(request))
    problems.log(problem, error)
    return problems.response(problem)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Not what was sent: it may be large, and no text that can be written.
    wrong = [
        {"at": ".".join(map(str, one["loc"])).encode("utf-8", "replace").decode(), "why": one["msg"]}
        for one in error.errors()
    ][:32]
    detail = "; ".join(f"{one['at']}: {one['why']}" for one in wrong[:4])
    said = problems.of_status(422, "invalid_input", detail, request.url.path, _id(request), errors=wrong)
    return problems.response(said)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # What is no JSON at all is as wrong as JSON of another form, which is 422.
    status = 422 if error.status_code == HTTPStatus.BAD_REQUEST else error.status_code
    code = _CODES.get(status, "invalid_input")
    said = problems.of_status(status, code, error.detail, request.url.path, _id(request))
    return problems.response(said, error.headers)


async def _on_left(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _on_bug(request: Request, error: Exception) -> Response:
    problems.log_bug(_id(request), error)
    detail = "the server failed; its log has the error under this request id"
    return problems.response(problems.of_status(500, "error", detail, request.url.path, _id(request)))
