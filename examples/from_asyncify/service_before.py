"""An endpoint with ``dspy.asyncify``; ``service_after.py`` is the same with dspex.

Takes its model from DSPEX_LM and LM_BASE_URL, as quickstart.py does. Run it as
``uvicorn --app-dir examples from_asyncify.service_before:app``.
"""

from __future__ import annotations

import asyncio
import os

import dspy
from fastapi import FastAPI

dspy.configure(
    lm=dspy.LM(os.environ.get("DSPEX_LM", "openai/gpt-5-mini"), api_base=os.environ.get("LM_BASE_URL"))
)
ask = dspy.asyncify(dspy.Predict("question -> answer"))
app = FastAPI()


@app.get("/answer")
async def answer(question: str) -> dict[str, str]:
    """Answer a question."""
    prediction = await asyncio.wait_for(ask(question=question), timeout=20)
    return {"answer": prediction.answer}
