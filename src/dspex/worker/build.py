"""From a program's spec to the program."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import dspy

from dspex.program.spec import ProgramSpec
from dspex.worker.built import Program
from dspex.worker.modules import agents, coding, plain
from dspex.worker.tools import as_tools

# What the catalogue names; nothing is looked up in DSPy by a caller's word.
_MAKERS: dict[str, Callable[[ProgramSpec], Program]] = {
    "dspy.Predict": plain.predict,
    "dspy.ChainOfThought": plain.chain_of_thought,
    "dspy.ProgramOfThought": coding.program_of_thought,
}
_WITH_TOOLS: dict[str, Callable[[ProgramSpec, list[dspy.Tool]], Program]] = {
    "dspy.ReAct": agents.react,
    "dspy.ReActV2": agents.react_v2,
    "dspy.CodeAct": coding.code_act,
    "dspy.RLM": coding.rlm,
}


def build(spec: ProgramSpec, allow_modules: Sequence[str] = ()) -> Program:
    """Build the DSPy module that a spec describes; blocks when ``imports(spec)``.

    Args:
        spec: The spec.
        allow_modules: Where tools by import path may come from.
    """
    make = _WITH_TOOLS.get(spec.module)
    if make is not None:
        return make(spec, as_tools(spec.tools, allow_modules))
    return _MAKERS[spec.module](spec)


def imports(spec: ProgramSpec) -> bool:
    """Whether building it imports code of the user's."""
    return any(tool.path is not None for tool in spec.tools)
