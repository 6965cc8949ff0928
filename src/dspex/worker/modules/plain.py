"""``Predict`` and ``ChainOfThought``: one request each."""

from __future__ import annotations

import dspy

from dspex.program.spec import ProgramSpec
from dspex.worker.built import Program
from dspex.worker.signatures import dspy_signature, input_types


def predict(spec: ProgramSpec) -> Program:
    """A ``Predict``."""
    module = dspy.Predict(dspy_signature(spec.declared), **spec.options)
    outputs = tuple(module.signature.output_fields)
    return Program(spec.declared, input_types(spec.declared), module, outputs, answers=(module,))


def chain_of_thought(spec: ProgramSpec) -> Program:
    """A ``ChainOfThought``, whose outputs begin with its reasoning."""
    module = dspy.ChainOfThought(dspy_signature(spec.declared), **spec.options)
    outputs = tuple(module.predict.signature.output_fields)
    return Program(spec.declared, input_types(spec.declared), module, outputs, answers=(module.predict,))
