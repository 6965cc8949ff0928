"""Whether the server lives, and whether it can take calls."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from sqlalchemy import Connection, text
from starlette.responses import Response

from dspex.adapter.runtime import Runtime
from dspex.server import problems as problem_details
from dspex.server.answers import Health, answer
from dspex.server.context import Shared, problems

router = APIRouter(tags=["health"])
# Seconds that the store has to answer.
_STORE = 2.0


@router.get("/healthz", operation_id="healthz", response_model=Health, responses=problems(413))
async def healthz() -> Response:
    """Whether the server lives; it asks nobody."""
    return answer({"status": "ok"})


@router.get("/readyz", operation_id="readyz", response_model=Health, responses=problems(413, 503))
async def readyz(request: Request, shared: Shared) -> Response:
    """Whether each pool that keeps workers has a ready one, and the store answers."""
    failing = ["stopping"] if shared.stopping else await _failing(shared.runtime)
    if not failing:
        return answer({"status": "ready"})
    problem = problem_details.of_status(
        503,
        "not_ready",
        f"not ready: {', '.join(failing)}",
        request.url.path,
        request.scope["state"]["request_id"],
        failing=failing,
    )
    return problem_details.response(problem)


@router.get(
    "/metrics",
    operation_id="metrics",
    response_class=Response,
    responses={
        200: {
            "description": "Metrics in Prometheus' text format.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        **problems(401, 403, 413),
    },
)
async def metrics(shared: Shared) -> Response:
    """What Prometheus reads of this server's runtime."""
    return Response(shared.runtime.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _failing(runtime: Runtime) -> list[str]:
    failing = [
        f"pool {name}"
        for name, pool in runtime.stats().pools.items()
        if pool.unhealthy is not None
        or (pool.wanted and not any(worker.state in {"ready", "busy"} for worker in pool.workers))
    ]
    try:
        async with asyncio.timeout(_STORE):
            await runtime.core.sessions.read(_one)
    except Exception:  # noqa: BLE001 (whatever it is, it does not answer)
        failing.append("store")
    return failing


def _one(connection: Connection) -> None:
    connection.execute(text("SELECT 1"))
