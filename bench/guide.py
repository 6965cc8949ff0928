"""The application of DSPy's deployment guide: FastAPI, with the program made asynchronous by ``asyncify``."""

from __future__ import annotations

import os
from typing import Any

import dspy
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

app = FastAPI(title="DSPy Program API", version="1.0.0")


class Question(BaseModel):
    """What is asked."""

    text: str


lm = dspy.LM("openai/x", api_base=os.environ["BENCH_PROVIDER"], api_key="none", engine="lm15", cache=False)
dspy.configure(lm=lm, async_max_workers=int(os.environ["BENCH_THREADS"]))
program = dspy.asyncify(dspy.Predict("question -> answer"))


@app.post("/predict")
async def predict(question: Question) -> dict[str, Any]:
    """Answer one question."""
    try:
        result = await program(question=question.text)
    except Exception as error:
        raise HTTPException(status_code=500, detail=str(error)) from error
    return {"status": "success", "data": result.toDict()}
