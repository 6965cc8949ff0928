"""From a program's spec to the program."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any

import dspy
import msgspec

from dspex.program.catalogue import MODULES
from dspex.program.spec import ProgramSpec
from dspex.worker.built import Program
from dspex.worker.modules import agents, attempts, coding, comparison, plain
from dspex.worker.rewards import Judged
from dspex.worker.tools import as_tools

# What the catalogue names; nothing is looked up in DSPy by a caller's word.
_MAKERS: dict[str, Callable[[ProgramSpec], Program]] = {
    "dspy.Predict": plain.predict,
    "dspy.ChainOfThought": plain.chain_of_thought,
    "dspy.MultiChainComparison": comparison.multi_chain_comparison,
    "dspy.ProgramOfThought": coding.program_of_thought,
}
_WITH_TOOLS: dict[str, Callable[[ProgramSpec, list[dspy.Tool]], Program]] = {
    "dspy.ReAct": agents.react,
    "dspy.ReActV2": agents.react_v2,
    "dspy.CodeAct": coding.code_act,
    "dspy.RLM": coding.rlm,
}
# Those that run another module inside.
_AROUND: dict[str, Callable[[ProgramSpec, Program, Judged], Program]] = {
    "dspy.BestOfN": attempts.best_of_n,
    "dspy.Refine": attempts.refine,
}


def can_build(name: str) -> bool:
    """Whether there is a maker of the module."""
    return name in _MAKERS or name in _WITH_TOOLS or name in _AROUND


def build(spec: ProgramSpec, allow_modules: Sequence[str] = ()) -> Program:
    """Build the DSPy module that a spec describes; blocks when ``imports(spec)``.

    Options of LM requests that DSPy's constructor does not take are set on the LM of each call, whichever
    module it is (``Program.generation``); a maker is not given them.

    Args:
        spec: The spec.
        allow_modules: Where tools and rewards by import path may come from.
    """
    entry = MODULES[spec.module]
    if spec.module in _AROUND:
        own, rest = _split(spec.options, entry.own)
        inner = build(msgspec.structs.replace(spec, module=own.pop("of"), options=rest), allow_modules)
        reward = Judged(own.pop("reward"), inner.outputs, list(allow_modules))
        return _AROUND[spec.module](msgspec.structs.replace(spec, options=own), inner, reward)
    generation, rest = _split(spec.options, () if entry.takes_generation else entry.generation)
    bare = msgspec.structs.replace(spec, options=rest)
    if spec.module in _WITH_TOOLS:
        program = _WITH_TOOLS[spec.module](bare, as_tools(spec.tools, allow_modules))
    else:
        program = _MAKERS[spec.module](bare)
    return dataclasses.replace(program, generation=generation) if generation else program


def imports(spec: ProgramSpec) -> bool:
    """Whether building it imports code of the user's."""
    reward = spec.options.get("reward")
    is_loaded = isinstance(reward, dict) and reward.get("kind") == "path"
    return is_loaded or any(tool.path is not None for tool in spec.tools)


def _split(options: dict[str, Any], names: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    chosen = {name: value for name, value in options.items() if name in names}
    return chosen, {name: value for name, value in options.items() if name not in chosen}
