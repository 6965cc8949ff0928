"""``MultiChainComparison``: attempts side by side, then one that compares them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import dspy

from dspex.program.spec import ProgramSpec
from dspex.worker.built import Program
from dspex.worker.signatures import dspy_signature, input_types
from dspex.worker.together import together

#: DSPy's, for attempts that differ.
TEMPERATURE = 0.7


class Comparison(dspy.Module):  # type: ignore[misc]
    """DSPy's module, which is given its attempts, with what makes them.

    DSPy's own compares only, and has no asynchronous form. The attempts are those of a ``ChainOfThought``.

    Args:
        signature: The caller's signature.
        attempts: How many.
        config: Generation options, of the attempts and of the comparison.
    """

    def __init__(self, signature: Any, attempts: int, **config: Any) -> None:
        super().__init__()
        self.attempts = attempts
        self.attempt = dspy.ChainOfThought(signature, **config)
        self.compare = dspy.MultiChainComparison(signature, M=attempts, **config)

    async def aforward(self, **inputs: Any) -> Any:
        """Make the attempts, then compare them."""
        made = await together(self.attempt.acall(**inputs) for _ in range(self.attempts))
        # DSPy's own code, with what it would ask handed back instead.
        stand_in = SimpleNamespace(
            M=self.attempts, last_key=self.compare.last_key, predict=lambda **asked: asked
        )
        asked = dspy.MultiChainComparison.forward(stand_in, made, **inputs)
        prediction = await self.compare.predict.acall(**asked)
        prediction._attempts = made
        return prediction


def multi_chain_comparison(spec: ProgramSpec) -> Program:
    """A comparison of several attempts, whose outputs begin with its rationale."""
    options = dict(spec.options)
    attempts = options.pop("M", 3)
    module = Comparison(dspy_signature(spec.declared), attempts, **{"temperature": TEMPERATURE, **options})
    outputs = tuple(module.compare.predict.signature.output_fields)
    return Program(spec.declared, input_types(spec.declared), module, outputs, tell=_told)


def _told(prediction: Any) -> dict[str, Any]:
    return {"trajectory": [dict(attempt.items()) for attempt in prediction._attempts]}
