"""A web service: a question over HTTP, an answer from a worker.

Takes its model from DSPEX_LM and LM_BASE_URL, as quickstart.py does. Run it, and ask::

    uvicorn --app-dir examples fastapi_app.app:app
    curl localhost:8000/answer -H 'content-type: application/json' -d '{"question": "Why is the sky blue?"}'
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, StringConstraints
from starlette.requests import ClientDisconnect

import dspex

from . import problems
from .watched import while_connected

MODEL = os.environ.get("DSPEX_LM")  # a model or a profile; else what dspex.toml says
ADDRESS = os.environ.get("LM_BASE_URL")
DEADLINE = float(os.environ.get("DEADLINE", "20"))  # seconds; the work stops when they are over

log = logging.getLogger("uvicorn.error")


class Question(BaseModel):
    """What a client sends."""

    question: Annotated[str, StringConstraints(min_length=1, max_length=4000)]


class Answer(BaseModel):
    """What it gets."""

    answer: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the runtime on the server's loop, and close it when the server stops."""
    pools = {"general": dspex.PoolOptions(workers=1)}  # of each server process
    lm = dspex.LM(MODEL, base_url=ADDRESS) if MODEL and ADDRESS else MODEL
    async with dspex.Runtime(lm, pools=pools) as runtime:
        app.state.runtime = runtime
        app.state.adapter = runtime.adapter(timeout=DEADLINE)
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/answer")
async def answer(question: Question, request: Request) -> Answer:
    """Answer, unless the client leaves first."""
    call = request.app.state.adapter.agenerate(question.question, signature="question -> answer")
    response = await while_connected(request, call)
    return Answer(answer=response.answer)


@app.get("/ready")
async def ready(request: Request) -> Response:
    """Whether calls would be taken, for a load balancer."""
    workers = request.app.state.runtime.stats().pools["general"].workers
    return Response(status_code=204 if any(w.state in {"ready", "busy"} for w in workers) else 503)


@app.exception_handler(dspex.DspexError)
async def on_error(request: Request, error: dspex.DspexError) -> Response:
    """Log the whole error, and tell the client what it may know."""
    log.warning("%s %s: %s %s", request.url.path, error.request_id, error.code, error.message)
    return problems.response(error)


@app.exception_handler(ClientDisconnect)
async def on_disconnect(_request: Request, _error: ClientDisconnect) -> Response:
    """Nobody reads this; without it the server would log a traceback."""
    return Response(status_code=499)
