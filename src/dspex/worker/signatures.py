"""``dspy.Signature`` classes, made from fields and never from text: DSPy's parser imports."""

from __future__ import annotations

import warnings
from typing import Any

import dspy

from dspex.program.signature import Field, Signature, default_instructions, resolve
from dspex.worker.media import BY_TYPE


def input_types(signature: Signature) -> dict[str, Any]:
    """The Python type of each input that declares one."""
    return {field.name: resolve(field.type, BY_TYPE) for field in signature.inputs if field.typed}


def dspy_signature(signature: Signature) -> Any:
    """The class for a checked signature."""
    fields: dict[str, tuple[Any, Any]] = {}
    for field in signature.inputs:
        # DSPy notes the absence of a type here, and then takes any value without a word.
        untyped = {} if field.typed else {"IS_TYPE_UNDEFINED": True}
        fields[field.name] = (resolve(field.type, BY_TYPE), dspy.InputField(**_description(field), **untyped))
    for field in signature.outputs:
        fields[field.name] = (resolve(field.type, BY_TYPE), dspy.OutputField(**_description(field)))
    with warnings.catch_warnings():
        # A field may be named like a method of the class (``json``, ``copy``); DSPy finds it all the same.
        warnings.simplefilter("ignore", UserWarning)
        # Without instructions DSPy would build the class twice to find out its own.
        instructions = signature.instructions or default_instructions(signature)
        return dspy.make_signature(fields, instructions)


def _description(field: Field) -> dict[str, str]:
    return {} if field.description is None else {"desc": field.description}
