"""What a call gives back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from dspex.tools import ToolRecord
from dspex.types import FallenBack, LMRequest, Usage
from dspex.wire.jsonready import as_text, json_ready


class Timing(msgspec.Struct, frozen=True):
    """Where the time of a call went, in seconds.

    Attributes:
        queued: Waiting for a slot.
        built: Building the program in the worker; 0.0 when that had it already.
        run: In the worker, ``built`` and the model's time included.
        model: In LM requests; those made side by side count each.
        total: From the call to its answer.
    """

    queued: float
    built: float
    run: float
    model: float
    total: float


class StageResult(msgspec.Struct, frozen=True):
    """One stage of a program, or the one module of a call.

    Attributes:
        module: Its module.
        outputs: Its outputs by name.
        usage: Tokens of its LM requests.
        cost: US dollars; None when a price is unknown.
        seconds: How long it took, waiting included.
    """

    module: str
    outputs: dict[str, Any]
    usage: Usage
    cost: float | None
    seconds: float


class Response:
    """The outputs of a program, and how they came about.

    Outputs are attributes (``r.answer``) and items (``r["answer"]``). A name of this class wins as an
    attribute: the output ``model`` is ``r["model"]``.

    Attributes:
        outputs: Outputs by name, in the signature's order.
        completions: All sets of outputs, when several were asked for (``n``); else None.
        model: The model that answered.
        usage: Tokens of all LM requests together.
        cost: US dollars of all LM requests together by DSPy's price map; None when a price is unknown.
        timing: Where the time went.
        attempts: How many workers the call was given to; above 1 when one was lost.
        requests: Each LM request that was made.
        adapter: The class of the DSPy adapter that was used (``"ChatAdapter"``); None without an LM.
        trajectory: How the answer came about. What an agent thought, called and saw, as DSPy has it; the
            attempts of ``MultiChainComparison``; those of ``BestOfN`` and ``Refine``, each with ``outputs``
            and ``reward`` or with ``error``. None for modules that have none.
        messages: With ``debug=True`` each attempt of an LM request: ``model``, ``messages`` (``role`` and
            ``content``), ``status`` and the raw ``reply``; else None.
        tool_calls: Each tool that was called, in order.
        cached: Whether the answer came from dspex's cache: no LM was asked, and ``usage`` and ``cost`` are
            those of this call, nothing.
        worker: Number of the worker that answered; 0 when none had to.
        request_id: The call's name, as in its errors.
        program_version: Which version of a program answered; None when the call was not made by one.
        stages: Each stage of a program in order, with its outputs, usage, cost and time; one for a module.
        fallbacks: The LMs that did not answer before the one that did, first to last, each with its
            ``model``, and the ``code`` and ``message`` of its error.
        recorded: Whether the call is written in its session; False when the store could not be written to,
            None when it was made in no session.
    """

    __slots__ = (
        "adapter",
        "attempts",
        "cached",
        "completions",
        "cost",
        "fallbacks",
        "messages",
        "model",
        "outputs",
        "program_version",
        "recorded",
        "request_id",
        "requests",
        "stages",
        "timing",
        "tool_calls",
        "trajectory",
        "usage",
        "worker",
    )  # fmt: skip

    def __init__(
        self,
        outputs: dict[str, Any],
        *,
        completions: list[dict[str, Any]] | None,
        usage: Usage,
        cost: float | None,
        timing: Timing,
        attempts: int,
        requests: list[LMRequest],
        worker: int,
        request_id: str,
        model: str | None,
        adapter: str | None = None,
        trajectory: Any = None,
        messages: list[dict[str, Any]] | None = None,
        tool_calls: list[ToolRecord] | None = None,
        stages: list[StageResult] | None = None,
        recorded: bool | None = None,
        cached: bool = False,
        fallbacks: list[FallenBack] | None = None,
    ) -> None:
        self.outputs = outputs
        self.completions = completions
        self.model = model
        self.usage = usage
        self.cost = cost
        self.timing = timing
        self.attempts = attempts
        self.requests = requests
        self.adapter = adapter
        self.trajectory = trajectory
        self.messages = messages
        self.tool_calls = tool_calls or []
        self.cached = cached
        self.worker = worker
        self.request_id = request_id
        self.program_version: int | None = None
        self.stages = stages or []
        self.recorded = recorded
        self.fallbacks = fallbacks or []

    @property
    def content(self) -> str:
        """The one text: the last output, as JSON if it is not text; empty when there is no output."""
        value = next(reversed(self.outputs.values()), "")
        return as_text(value)

    @property
    def finishes(self) -> list[str | None]:
        """Why the model stopped, for each request that it answered: ``"stop"``, ``"length"``, …"""
        return [request.finish for request in self.requests if request.status == "ok"]

    def __getitem__(self, name: str) -> Any:
        return self.outputs[name]

    def __contains__(self, name: object) -> bool:
        return name in self.outputs

    def __iter__(self) -> Iterator[str]:
        return iter(self.outputs)

    def __getattr__(self, name: str) -> Any:
        # Only reached for names that this class does not have.
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self.outputs[name]
        except KeyError:
            raise AttributeError(f"no output {name!r}; there are {', '.join(self.outputs)}") from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.outputs]

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.outputs.items())
        return f"Response({shown})"

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready data."""
        return {
            "outputs": json_ready(self.outputs),
            "completions": json_ready(self.completions),
            "model": self.model,
            "usage": {**msgspec.to_builtins(self.usage), "total_tokens": self.usage.total_tokens},
            "cost": self.cost,
            "timing": msgspec.to_builtins(self.timing),
            "attempts": self.attempts,
            "requests": msgspec.to_builtins(self.requests),
            "finishes": self.finishes,
            "adapter": self.adapter,
            **({} if self.messages is None else {"messages": json_ready(self.messages)}),
            "trajectory": json_ready(self.trajectory),
            "tool_calls": json_ready(self.tool_calls),
            "cached": self.cached,
            "worker": self.worker,
            "request_id": self.request_id,
            "program_version": self.program_version,
            "stages": json_ready(self.stages),
            "recorded": self.recorded,
            "fallbacks": msgspec.to_builtins(self.fallbacks),
        }
