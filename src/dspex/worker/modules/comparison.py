"""``MultiChainComparison``: several attempts side by side, then one request that compares them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import dspy

from dspex.program.spec import ProgramSpec
from dspex.worker.built import Program, telling, told
from dspex.worker.signatures import dspy_signature, input_types
from dspex.worker.threads import side_by_side

_STOCK_TEMPERATURE = 0.7


class Comparison(dspy.MultiChainComparison):  # type: ignore[misc]
    """DSPy's module with an asynchronous form, which makes the attempts itself.

    Args:
        signature: The signature.
        M: How many attempts.
        **config: Of the attempts and of the comparison.

    Attributes:
        may_be_lacking: Predictors that a saved state need not have: DSPy's module makes no attempts.
    """

    may_be_lacking = frozenset({"attempt.predict"})

    def __init__(self, signature: Any, M: int = 3, **config: Any) -> None:  # noqa: N803 (as in DSPy)
        config.setdefault("temperature", _STOCK_TEMPERATURE)
        super().__init__(signature, M=M, **config)
        self.attempt = dspy.ChainOfThought(signature, **config)

    async def aforward(self, **inputs: Any) -> Any:
        """Make the attempts, and compare them."""
        attempts = await side_by_side(self._attempt(number, inputs) for number in range(self.M))
        # DSPy's own forward makes the request; what stands in for its predictor only takes it down.
        stand_in = SimpleNamespace(M=self.M, last_key=self.last_key, predict=dict)
        asked = dspy.MultiChainComparison.forward(stand_in, attempts, **inputs)
        prediction = await self.predict.acall(**asked)
        return telling(prediction, trajectory=attempts)

    async def _attempt(self, number: int, inputs: dict[str, Any]) -> dict[str, Any]:
        # As users of DSPy tell samples apart: with a cache, all would be the first one's.
        distinct = {} if self.attempt.predict.config.get("temperature") == 0 else {"rollout_id": number}
        prediction = await self.attempt.acall(config=distinct, **inputs)
        names = self.attempt.predict.signature.output_fields
        return {name: str(prediction[name]) if name == "reasoning" else prediction[name] for name in names}


def multi_chain_comparison(spec: ProgramSpec) -> Program:
    """A ``MultiChainComparison``, whose outputs begin with its rationale."""
    module = Comparison(dspy_signature(spec.declared), **spec.options)
    outputs = tuple(module.predict.signature.output_fields)
    return Program(
        spec.declared, input_types(spec.declared), module, outputs, tell=told, answers=(module.predict,)
    )
