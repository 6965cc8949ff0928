"""LMs on the worker's engines as tests ask them, and engines of an operator's own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import dspy

from dspex.types import LMRequest, LMSpec, Retry
from dspex.worker.engine import CallScope, Rates, current
from dspex.worker.routing import build_lm
from tests.provider import Provider


class OpenDoor:
    """Lets every request through, and keeps what it is told."""

    def __init__(self) -> None:
        self.requests: list[LMRequest] = []

    async def enter(self, scope: CallScope, spec: LMSpec, request: Any, rates: Rates) -> int:
        return 0

    def enter_from_thread(self, scope: CallScope, spec: LMSpec, request: Any, rates: Rates) -> int:
        return 0

    def leave(self, scope: CallScope, spec: LMSpec, ask: int, *, record: LMRequest | None, **_: Any) -> None:
        if record is not None:
            self.requests.append(record)


class Asked:
    """An LM, and what was recorded of its requests."""

    def __init__(self, lm: Any, deadline: float | None = None) -> None:
        self.lm = lm
        door = OpenDoor()
        self.requests = door.requests
        self.scope = CallScope(door, deadline=deadline)

    async def ask(
        self, adapter: Any = None, question: str = "Where?", signature: str = "question -> answer"
    ) -> str:
        current.set(self.scope)
        with dspy.context(lm=self.lm, adapter=adapter or dspy.ChatAdapter()):
            got = await dspy.Predict(signature).acall(question=question)
        return str(got.answer)


@asynccontextmanager
async def built(
    provider: Provider | None, model: str = "openai/x", *, deadline: float | None = None, **spec: Any
) -> AsyncIterator[Asked]:
    """An LM as a worker builds it, closed at the end; one attempt unless the spec says otherwise."""
    known: dict[str, Any] = {"api_key": "secret-1", "retry": Retry(attempts=1)}
    if provider is not None:
        known["base_url"] = provider.base_url
    lm = build_lm(LMSpec(model=model, **{**known, **spec}), ["tests.engines"])
    try:
        yield Asked(lm, deadline)
    finally:
        await lm._async_engine_spec.aclose()
        lm._engine_spec.close()


async def eventually(holds: Callable[[], bool]) -> bool:
    """Whether it holds within two seconds, for what nothing can tell the time of."""
    end = time.monotonic() + 2
    while not holds() and time.monotonic() < end:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    return holds()


def answer(text: str = "[[ ## answer ## ]]\nyes") -> Any:
    return dspy.lm15.Response(
        id=None,
        model="own",
        message=dspy.lm15.Message.assistant([dspy.lm15.TextPart(text)]),
        finish_reason="stop",
        usage=dspy.lm15.Usage(input_tokens=3, output_tokens=2, total_tokens=5),
    )


class Plain:
    """The least that an engine has to have."""

    def complete(self, request: Any) -> Any:
        return answer()


class Awaited:
    """An asynchronous engine that says what its model can do."""

    supports_response_schema = True
    supports_function_calling = True
    supported_params = frozenset({"temperature", "response_format"})
    seen: ClassVar[list[Any]] = []

    async def complete(self, request: Any) -> Any:
        self.seen.append(request)
        await asyncio.sleep(0)
        return answer('{"answer": "yes"}')


class Meeting:
    """Answers only when two requests are in it at once."""

    both = threading.Barrier(2)

    def complete(self, request: Any) -> Any:
        self.both.wait(timeout=2)
        return answer()


class Broken:
    """An engine with a bug."""

    def complete(self, request: Any) -> Any:
        raise KeyError("choices")
