"""The endpoint of ``service_before.py``, with dspex. ``examples/fastapi_app`` has more.

Takes its model from DSPEX_LM and LM_BASE_URL, as quickstart.py does. Run it as
``uvicorn --app-dir examples from_asyncify.service_after:app``.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request

import dspex

LM = dspex.LM(os.environ.get("DSPEX_LM", "openai/gpt-5-mini"), base_url=os.environ.get("LM_BASE_URL"))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the runtime on the server's loop."""
    async with dspex.Runtime(lm=LM) as runtime:
        app.state.adapter = runtime.adapter(timeout=20)
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/answer")
async def answer(question: str, request: Request) -> dict[str, str]:
    """Answer a question."""
    response = await request.app.state.adapter.agenerate(question, signature="question -> answer")
    return {"answer": response.answer}
