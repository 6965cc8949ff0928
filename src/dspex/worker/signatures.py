"""``dspy.Signature`` classes, made from fields and never from text: DSPy's parser imports."""

from __future__ import annotations

import copy
import json
import re
import warnings
from functools import lru_cache
from typing import Any

import dspy
import pydantic

from dspex.errors import InvalidSignature
from dspex.program.signature import Field, Signature, default_instructions, resolve, type_of
from dspex.worker.media import BY_TYPE
from dspex.worker.paths import loaded, with_changes
from dspex.worker.shapes import Shapes


@lru_cache(64)
def shapes_of(signature: Signature) -> Shapes:
    """The classes of its shapes, made once.

    Raises:
        InvalidSignature: None can be made.
    """
    try:
        types = " ".join(field.type for field in (*signature.inputs, *signature.outputs))
        return Shapes(signature.shapes, set(re.findall(r"\w+", types)))
    except (pydantic.errors.PydanticUserError, RecursionError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0][:200]
        if isinstance(error, RecursionError):
            reason = "they mention each other in a chain that is too long; make it shorter"
        raise InvalidSignature(f"no types can be made from the signature's JSON Schemas: {reason}") from error


def types_of(signature: Signature) -> dict[str, Any]:
    """The objects for the types that its fields may name beside Python's own."""
    return {**BY_TYPE, **shapes_of(signature).by_key} if signature.shapes else BY_TYPE


def input_types(signature: Signature) -> dict[str, Any]:
    """The Python type of each input that declares one, but for those that the caller has checked himself."""
    if signature.path is not None:
        known = loaded(signature.path).input_fields
        return {
            field.name: known[field.name].annotation if field.name in known else resolve(field.type, BY_TYPE)
            for field in signature.inputs
            if field.typed
        }
    exact = {shape.key for shape in signature.shapes if shape.key and shape.exact}
    types = types_of(signature)
    return {
        field.name: resolve(field.type, types)
        for field in signature.inputs
        if field.typed and not any(type_of(field.type, signature.names).mentions(key) for key in exact)
    }


def dspy_signature(signature: Signature) -> Any:
    """The class for a checked signature."""
    fields: dict[str, tuple[Any, Any]] = {}
    types = types_of(signature)
    kind = None if signature.path is None else loaded(signature.path)
    known = {} if kind is None else kind.model_fields
    for field in signature.inputs:
        if field.name in known:
            continue
        # DSPy notes the absence of a type here, and then takes any value without a word.
        untyped = {} if field.typed else {"IS_TYPE_UNDEFINED": True}
        taken = resolve(field.type, types)
        fields[field.name] = (taken, dspy.InputField(**_told(field, taken), **untyped))
    if kind is not None:
        return with_changes(kind, signature, fields)
    for field in signature.outputs:
        taken = resolve(field.type, types)
        fields[field.name] = (taken, dspy.OutputField(**_told(field, taken)))
    with warnings.catch_warnings():
        # A field may be named like a method of the class (``json``, ``copy``); DSPy finds it all the same.
        warnings.simplefilter("ignore", UserWarning)
        # Without instructions DSPy would build the class twice to find out its own.
        instructions = signature.instructions or default_instructions(signature)
        made = dspy.make_signature(fields, instructions)
    for field in (*signature.inputs, *signature.outputs):
        extra = made.model_fields[field.name].json_schema_extra
        # By way of DSPy's own arguments these would be made anew, or warned of.
        for name, text in (("constraints", field.constraints), ("prefix", field.prefix)):
            if text is not None:
                extra[name] = text
    return made


def _told(field: Field, kind: Any) -> dict[str, Any]:
    told: dict[str, Any] = {} if field.description is None else {"desc": field.description}
    if field.default is not None:
        value = _default(field, kind)
        told |= {"default_factory": lambda: copy.deepcopy(value)} if field.fresh else {"default": value}
    return told


def _default(field: Field, kind: Any) -> Any:
    assert field.default is not None
    try:
        return pydantic.TypeAdapter(kind).validate_python(json.loads(field.default))
    except pydantic.ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise InvalidSignature(
            f"the default of {field.name!r} is not {field.type}: {reason.lower()}",
            details={"path": field.name},
        ) from None
