"""``BestOfN`` and ``Refine``: the same module several times, and the attempt with the highest reward.

DSPy's own are synchronous, print what failed and give None when all did, and count failures on the module,
which calls share. These ask what DSPy's ask, and await it.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import dspy
import orjson
from dspy.predict import refine as stock

from dspex.errors import DspexError, ToolError
from dspex.program.entries import MODULES
from dspex.program.spec import ProgramSpec
from dspex.worker import faults
from dspex.worker.built import Program, telling, told
from dspex.worker.rewards import Judged

_TEMPERATURE = 1.0
# DSPy's own default: a call's context has none, and here DSPy reads what it notes.
_TRACE = 10_000


class Best(dspy.Module):  # type: ignore[misc]
    """``BestOfN`` for event loops.

    Args:
        inner: The module that is tried.
        reward: How good an attempt is.
        attempts: The most attempts.
        threshold: A reward that ends the search.
        fail_count: How many attempts may fail.
    """

    def __init__(
        self, inner: Program, reward: Judged, attempts: int, threshold: float, fail_count: int
    ) -> None:
        super().__init__()
        # Not as an attribute of a kind that DSPy searches for predictors.
        self._inner = (inner,)
        self._reward = reward
        self._attempts = attempts
        self._threshold = threshold
        self._fail_count = fail_count

    def named_parameters(self) -> list[tuple[str, Any]]:
        """The predictors of the module that is tried, by the names that they have in DSPy's own."""
        return [
            ("module" if name == "self" else f"module.{name}", predictor)
            for name, predictor in self._inner[0].module.named_parameters()
        ]

    async def aforward(self, **inputs: Any) -> Any:
        """Try until the threshold is reached, and give the best attempt."""
        inner = self._inner[0]
        lm = dspy.settings.lm
        first = lm.kwargs.get("rollout_id", 0)
        best, best_reward, failures = None, -float("inf"), 0
        tries: list[dict[str, Any]] = []
        advice: dict[str, str] | None = None
        for number in range(self._attempts):
            asked = {"rollout_id": first + number, "temperature": _TEMPERATURE, **inner.generation}
            module = inner.module.deepcopy()
            module.set_lm(lm.copy(**asked))
            one: dict[str, Any] = {}
            tries.append(one)
            try:
                prediction, trace = await self._try(module, inputs, advice)
                one["outputs"] = {name: _plain(prediction[name]) for name in inner.outputs}
                one.update(inner.told_by(prediction))
                reward = one["reward"] = await self._reward(inputs, prediction)
                if best is None or reward > best_reward:
                    best, best_reward = prediction, reward
                if reward >= self._threshold or number == self._attempts - 1:
                    break
                advice = await self._advise(module, inputs, prediction, trace, reward)
                if advice is not None:
                    one["advice"] = advice
            except Exception as error:
                failures += 1
                one["error"] = _told_of(error)
                # A tool that may end the call ends it.
                is_last = number == self._attempts - 1 and best is None
                if isinstance(error, ToolError) or failures > self._fail_count or is_last:
                    raise
        return telling(best, trajectory=tries)

    async def _try(
        self,
        module: Any,
        inputs: dict[str, Any],
        advice: dict[str, str] | None,  # noqa: ARG002
    ) -> tuple[Any, list[Any]]:
        return await self._run(module, inputs), []

    async def _run(self, module: Any, inputs: dict[str, Any]) -> Any:
        # One without an asynchronous form blocks the loop, which is then that of one call alone.
        return module(**inputs) if self._inner[0].blocking else await module.acall(**inputs)

    async def _advise(
        self, module: Any, inputs: dict[str, Any], prediction: Any, trace: list[Any], reward: float
    ) -> dict[str, str] | None:
        """What the next attempt is told; None is nothing."""


class Refined(Best):
    """``Refine`` for event loops."""

    async def _try(
        self, module: Any, inputs: dict[str, Any], advice: dict[str, str] | None
    ) -> tuple[Any, list[Any]]:
        with dspy.context(trace=[], max_trace_size=_TRACE):
            if advice:
                names = {predictor.signature: name for name, predictor in module.named_predictors()}
                with dspy.context(adapter=_hinting(dspy.settings.adapter, advice, names)):
                    prediction = await self._run(module, inputs)
            else:
                prediction = await self._run(module, inputs)
            return prediction, list(dspy.settings.trace)

    async def _advise(
        self, module: Any, inputs: dict[str, Any], prediction: Any, trace: list[Any], reward: float
    ) -> dict[str, str] | None:
        names = {predictor: name for name, predictor in module.named_predictors()}
        asked = {
            "program_code": inspect.getsource(type(self._inner[0].module)),
            "modules_defn": stock.inspect_modules(module),
            "program_inputs": inputs,
            "program_trajectory": [
                {"module_name": names[predictor], "inputs": given, "outputs": dict(gave)}
                for predictor, given, gave in trace
            ],
            "program_outputs": dict(prediction),
            "reward_code": self._reward.source,
            "target_threshold": self._threshold,
            "reward_value": reward,
            "module_names": list(names.values()),
        }
        shown = {
            name: value
            if isinstance(value, str)
            else orjson.dumps(stock.recursive_mask(value), option=orjson.OPT_INDENT_2).decode()
            for name, value in asked.items()
        }
        advised = await dspy.Predict(stock.OfferFeedback).acall(**shown)
        return dict(advised.advice)


def _hinting(adapter: Any, advice: dict[str, str], names: dict[Any, str]) -> Any:
    """The adapter, with the advice as an input of every request."""
    stock_adapter = adapter or dspy.ChatAdapter()

    def hinted(signature: Any, inputs: dict[str, Any]) -> Any:
        # In place, as DSPy does: so the hint is in what the next advice is given of this attempt.
        inputs["hint_"] = advice.get(names.get(signature, ""), "N/A")
        return signature.append("hint_", dspy.InputField(desc="A hint to the module from an earlier run"))

    class Hinting(type(stock_adapter)):  # type: ignore[misc]
        def __call__(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> Any:
            return stock_adapter(lm, lm_kwargs, hinted(signature, inputs), demos, inputs)

        async def acall(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> Any:
            return await stock_adapter.acall(lm, lm_kwargs, hinted(signature, inputs), demos, inputs)

    # A copy, not a new one: some adapters need arguments.
    made = copy.copy(stock_adapter)
    made.__class__ = Hinting
    return made


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, dspy.Reasoning) else value


def _told_of(error: Exception) -> dict[str, Any]:
    """An attempt's error as its record has it."""
    known: DspexError = faults.translate(error, [])
    return {"code": known.code, "message": known.message}


def best_of_n(spec: ProgramSpec, inner: Program, reward: Judged) -> Program:
    """A ``BestOfN`` of a built module."""
    return _made(Best, spec, inner, reward)


def refine(spec: ProgramSpec, inner: Program, reward: Judged) -> Program:
    """A ``Refine`` of a built module."""
    return _made(Refined, spec, inner, reward)


def _made(kind: type[Best], spec: ProgramSpec, inner: Program, reward: Judged) -> Program:
    given = {name: option.default for name, option in MODULES[spec.module].own.items()} | spec.options
    allowed = given["fail_count"] or given["N"]
    module = kind(inner, reward, given["N"], given["threshold"], allowed)
    return Program(inner.signature, inner.types, module, inner.outputs, tell=told)
