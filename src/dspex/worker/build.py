"""From a program's spec to the program."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import msgspec

from dspex.program.catalogue import MODULES
from dspex.program.spec import ProgramSpec
from dspex.worker.built import Program
from dspex.worker.modules import attempts, comparison, plain

# What the catalogue names; nothing is looked up in DSPy by a caller's word.
_MAKERS: dict[str, Callable[[ProgramSpec], Program]] = {
    "dspy.Predict": plain.predict,
    "dspy.ChainOfThought": plain.chain_of_thought,
    "dspy.MultiChainComparison": comparison.multi_chain_comparison,
}
# Those that run another module inside, which they are given.
_AROUND: dict[str, Callable[[ProgramSpec, Program, list[str]], Program]] = {
    "dspy.BestOfN": attempts.best_of_n,
    "dspy.Refine": attempts.refine,
}


def can_build(name: str) -> bool:
    """Whether there is a maker of the module."""
    return name in _MAKERS or name in _AROUND


def build(spec: ProgramSpec, allow_modules: list[str] | None = None) -> Program:
    """Build the DSPy module that a spec describes.

    Options of LM requests that DSPy's constructor does not take are set on the LM of each call, whichever
    module it is (``Program.generation``).

    Args:
        spec: The spec.
        allow_modules: Where a reward by import path may come from.
    """
    entry = MODULES[spec.module]
    around = _AROUND.get(spec.module)
    if around is not None:
        own = {name: value for name, value in spec.options.items() if name in entry.own}
        rest = {name: value for name, value in spec.options.items() if name not in entry.own}
        inner = msgspec.structs.replace(spec, module=own.pop("of"), options=rest)
        return around(
            msgspec.structs.replace(spec, options=own), build(inner, allow_modules), allow_modules or []
        )
    generation = {} if entry.takes_generation else _of(spec, entry.generation)
    rest = {name: value for name, value in spec.options.items() if name not in generation}
    program = _MAKERS[spec.module](msgspec.structs.replace(spec, options=rest))
    return dataclasses.replace(program, generation=generation) if generation else program


def _of(spec: ProgramSpec, names: object) -> dict[str, object]:
    return {name: value for name, value in spec.options.items() if name in names}  # type: ignore[operator]
