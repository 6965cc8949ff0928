"""What is counted of each call and each LM request, in a few additions."""

from __future__ import annotations

from collections.abc import Iterator

from dspex.telemetry.buckets import Histogram
from dspex.telemetry.events import CallFinished, LMRequestFinished

Labels = tuple[str, ...]
#: A metric's name, its labels, and how much of it there is.
Sample = tuple[str, Labels, "float | Histogram"]


class CallSeries:
    """The calls of one module in one pool.

    Args:
        pool: The pool.
        module: The module.
    """

    __slots__ = ("_attempts", "_codes", "_labels", "_model", "_queue", "_run", "_total")

    def __init__(self, pool: str, module: str) -> None:
        self._labels = (pool, module)
        self._codes: dict[str, int] = {}
        self._attempts = 0
        self._queue, self._run, self._model, self._total = (Histogram() for _ in range(4))

    def add(self, event: CallFinished) -> None:
        """Count a call."""
        code = event.code
        self._codes[code] = self._codes.get(code, 0) + 1
        self._attempts += event.attempts
        self._queue.add(event.queued)
        self._run.add(event.run)
        self._model.add(event.lm)
        self._total.add(event.total)

    def samples(self) -> Iterator[Sample]:
        """What was counted."""
        pool, _ = self._labels
        for code, calls in self._codes.items():
            yield "dspex_calls", (*self._labels, code), calls
        yield "dspex_call_attempts", (pool,), self._attempts
        yield "dspex_call_queue_seconds", self._labels, self._queue.copy()
        yield "dspex_call_run_seconds", self._labels, self._run.copy()
        yield "dspex_call_model_seconds", self._labels, self._model.copy()
        yield "dspex_call_total_seconds", self._labels, self._total.copy()


class RequestSeries:
    """The LM requests to one model.

    Args:
        model: The model.
    """

    __slots__ = ("_completion", "_cost", "_model", "_prompt", "_retries", "_seconds", "_statuses")

    def __init__(self, model: str) -> None:
        self._model = model
        self._statuses: dict[str, int] = {}
        self._retries = self._prompt = self._completion = 0
        self._cost = 0.0
        self._seconds = Histogram()

    def add(self, event: LMRequestFinished) -> None:
        """Count a request."""
        status = event.status
        self._statuses[status] = self._statuses.get(status, 0) + 1
        self._retries += event.retries
        self._prompt += event.prompt_tokens
        self._completion += event.completion_tokens
        if event.cost is not None:
            self._cost += event.cost
        self._seconds.add(event.seconds)

    def samples(self) -> Iterator[Sample]:
        """What was counted."""
        for status, requests in self._statuses.items():
            yield "dspex_lm_requests", (self._model, status), requests
        yield "dspex_lm_retries", (self._model,), self._retries
        yield "dspex_lm_tokens", (self._model, "prompt"), self._prompt
        yield "dspex_lm_tokens", (self._model, "completion"), self._completion
        yield "dspex_lm_cost_dollars", (self._model,), self._cost
        yield "dspex_lm_request_seconds", (self._model,), self._seconds.copy()
