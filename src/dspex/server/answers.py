"""What remote callers get: the models of answers, and how they are written."""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic import BaseModel, Field
from starlette.responses import Response as Answer

from dspex.adapter.response import Response
from dspex.wire.jsonready import json_ready


class Usage(BaseModel):
    """Tokens of LM requests."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Timing(BaseModel):
    """Where the time went, in seconds."""

    queued: float
    built: float
    run: float
    model: float
    total: float


class FallenBack(BaseModel):
    """A model that did not answer, so that another one was asked."""

    model: str
    code: str = Field(description="The code of its error.")


class GenerateResponse(BaseModel):
    """What a program gave."""

    request_id: str = Field(description="The call's name, also in the header `X-Request-Id`.")
    outputs: dict[str, Any] = Field(description="Outputs by name.")
    content: str = Field(description="The one text: the last output, as JSON if it is not text.")
    completions: list[dict[str, Any]] | None = Field(description="All of them, where several were asked for.")
    model: str | None = Field(description="The model that answered.")
    usage: Usage
    cost: float | None = Field(description="US dollars; null when a price is not known.")
    timing: Timing
    attempts: int = Field(description="How many workers it was given to.")
    cached: bool = Field(description="Whether it is an earlier answer to the same, which cost nothing.")
    fallbacks: list[FallenBack] = Field(description="Models that did not answer, in order.")
    finishes: list[str | None] = Field(description="Why the model stopped, for each request.")
    program_version: int | None = Field(description="Version of the program that ran, where it has versions.")


class Program(BaseModel):
    """A program of a session."""

    id: str
    name: str | None
    session_id: str
    version: int


class ProgramDetails(Program):
    """A program of a session, as a list has it."""

    versions: list[int]
    created: float = Field(description="Seconds since 1970.")
    modules: list[str]
    signature: str | None


class ProgramList(BaseModel):
    """The programs of a session, the oldest first."""

    programs: list[ProgramDetails]


class NamedProgram(BaseModel):
    """A program that the server's settings name."""

    name: str


class NamedProgramList(BaseModel):
    """The programs that the server's settings name."""

    programs: list[NamedProgram]


class Option(BaseModel):
    """An option of a module."""

    name: str
    type: str
    default: Any
    required: bool
    summary: str


class Module(BaseModel):
    """A module that calls can name."""

    name: str
    summary: str
    adds_outputs: list[str]
    needs: list[str]
    optional: list[str]
    status: str
    options: list[Option]


class ModuleList(BaseModel):
    """The modules that calls can name."""

    modules: list[Module]


class Health(BaseModel):
    """How the server is."""

    status: str


def body_of(response: Response) -> dict[str, Any]:
    """A response as callers get it: nothing of workers and of single requests to models."""
    usage = response.usage
    return {
        "request_id": response.request_id,
        "outputs": json_ready(response.outputs),
        "content": response.content,
        "completions": json_ready(response.completions),
        "model": response.model,
        "usage": {**msgspec.to_builtins(usage), "total_tokens": usage.total_tokens},
        "cost": response.cost,
        "timing": msgspec.to_builtins(response.timing),
        "attempts": response.attempts,
        "cached": response.cached,
        # Not what they said: that is about the operator's accounts with them.
        "fallbacks": [{"model": one.model, "code": one.code} for one in response.fallbacks],
        "finishes": response.finishes,
        "program_version": response.program_version,
    }


def answer(body: Any, status: int = 200, request_id: str | None = None) -> Answer:
    """JSON, written at once: it is checked where it is made, and not once more."""
    headers = None if request_id is None else {"X-Request-Id": request_id}
    return Answer(msgspec.json.encode(body), status, headers, media_type="application/json")


def answered(response: Response) -> Answer:
    """The answer of a call."""
    return answer(body_of(response), request_id=response.request_id)
