"""Examples given to the predictors of a program that was built."""

from __future__ import annotations

from typing import Any

import dspy
from dspy.utils.saving import get_dependency_versions

from dspex.program.spec import ProgramSpec
from dspex.wire.values import decode
from dspex.worker.built import Program
from dspex.worker.media import FOR_PROGRAMS


def give(program: Program, spec: ProgramSpec) -> None:
    """Show each predictor that answers the program's question the program's examples.

    Those that only plan (ReAct's, which chooses tools) have other outputs, and are shown none.
    """
    examples = [dspy.Example(**demo) for demo in decode(spec.demos, FOR_PROGRAMS)]
    outputs = {field.name for field in spec.declared.outputs}
    for _, predictor in program.module.named_predictors():
        if outputs <= predictor.signature.output_fields.keys():
            predictor.demos = list(examples)


def dumped(program: Any) -> dict[str, Any]:
    """What ``module.save("x.json")`` would write of a built program.

    Returns:
        JSON-ready data.
    """
    state: dict[str, Any] = program.module.dump_state(json_mode=True)
    return {**state, "metadata": {"dependency_versions": get_dependency_versions()}}
