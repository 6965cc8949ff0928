"""From a program's spec to the program."""

from __future__ import annotations

from collections.abc import Callable

from dspex.program.spec import ProgramSpec
from dspex.worker.built import Program
from dspex.worker.modules import comparison, plain

# What the catalogue names; nothing is looked up in DSPy by a caller's word.
_MAKERS: dict[str, Callable[[ProgramSpec], Program]] = {
    "dspy.Predict": plain.predict,
    "dspy.ChainOfThought": plain.chain_of_thought,
    "dspy.MultiChainComparison": comparison.multi_chain_comparison,
}


def build(spec: ProgramSpec) -> Program:
    """Build the DSPy module that a spec describes."""
    return _MAKERS[spec.module](spec)
