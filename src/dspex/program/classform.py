"""Signatures from classes: those of DSPy, and pydantic models.

They are read by what they have, so that neither DSPy nor pydantic is imported for it.
"""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from dspex.errors import InvalidSignature
from dspex.program.annotations import refused
from dspex.program.given import Draft, Given, Side
from dspex.program.signature import Field

#: The one input of a signature that a pydantic model is.
MODEL_INPUT = "prompt"
_SIDE = "__dspy_field_type"
_UNTYPED = "IS_TYPE_UNDEFINED"
# What DSPy tells the model of a field's constraints, word for word.
_CONSTRAINTS = {
    "gt": "greater than: ",
    "ge": "greater than or equal to: ",
    "lt": "less than: ",
    "le": "less than or equal to: ",
    "min_length": "minimum length: ",
    "max_length": "maximum length: ",
    "multiple_of": "a multiple of the given number: ",
    "allow_inf_nan": "allow 'inf', '-inf', 'nan' values: ",
}


def fields_of(kind: type) -> dict[str, Any]:
    """The fields of a pydantic class by name.

    Raises:
        InvalidSignature: It is none.
    """
    fields = getattr(kind, "__pydantic_fields__", None)
    if not isinstance(fields, dict):
        raise InvalidSignature(
            f"{kind.__name__} is no signature: give a dspy.Signature class, a pydantic model, a text such as "
            "'question -> answer', or a dict with inputs and outputs"
        )
    if not getattr(kind, "__pydantic_complete__", True):
        raise InvalidSignature(
            f"{kind.__name__} names types that were not known when it was made; call {kind.__name__}"
            ".model_rebuild() where they are"
        )
    return fields


def is_signature(kind: type) -> bool:
    """Whether a class is a ``dspy.Signature``, by its fields."""
    fields = fields_of(kind)
    return bool(fields) and all(_side(info) is not None for info in fields.values())


def state_of(kind: type) -> Any:
    """What of a class can be changed later; equal when nothing was."""
    fields = fields_of(kind)
    told = [(id(info.annotation), *_told(info)) for info in fields.values()]
    return kind.__doc__, told


def read(kind: type) -> Given:
    """A signature from a ``dspy.Signature`` class or a pydantic model.

    Raises:
        InvalidSignature: It is neither, or has a type that cannot travel.
    """
    return _dspys(kind) if is_signature(kind) else _model(kind)


def _dspys(kind: type) -> Given:
    draft = Draft()
    sides: tuple[Side, ...] = ("input", "output")
    for side in sides:
        for name, info in kind.__pydantic_fields__.items():  # type: ignore[attr-defined]
            if _side(info) != side:
                continue
            path = f"{kind.__name__}.{name}"
            spelled, has_classes = draft.annotated(info.annotation, path)
            description, constraints, prefix = _told(info)
            own = info.annotation if has_classes else None
            typed = side == "output" or not info.json_schema_extra.get(_UNTYPED)
            default, fresh = _default(info, path)
            told = None if description == f"${{{name}}}" else description
            draft.add(side, Field(name, spelled, told, typed, default, constraints, prefix, fresh), path, own)
    return draft.made(inspect.cleandoc(kind.__doc__ or ""))


def _model(kind: type) -> Given:
    draft = Draft()
    draft.add("input", Field(MODEL_INPUT), MODEL_INPUT)
    for name, info in fields_of(kind).items():
        path = f"{kind.__name__}.{name}"
        spelled, has_classes = draft.annotated(info.annotation, path)
        # What the annotation says beside the type is checked when the outputs come back.
        own = info.rebuild_annotation() if has_classes or info.metadata else None
        default, fresh = _default(info, path)
        field = Field(name, spelled, info.description, True, default, constraints_of(info), None, fresh)
        draft.add("output", field, path, own)
    doc = vars(kind).get("__doc__")
    return draft.made(inspect.cleandoc(doc) if doc else None)


def _side(info: Any) -> Any:
    extra = info.json_schema_extra
    return extra.get(_SIDE) if isinstance(extra, dict) else None


def _told(info: Any) -> tuple[Any, Any, Any]:
    extra = info.json_schema_extra
    if not isinstance(extra, dict):
        return info.description, None, None
    return extra.get("desc"), extra.get("constraints"), extra.get("prefix")


def constraints_of(info: Any) -> str | None:
    """What DSPy would tell the model of a field's constraints; None when it has none."""
    told = [
        f"{words}{getattr(part, name)}"
        for part in info.metadata
        for name, words in _CONSTRAINTS.items()
        if getattr(part, name, None) is not None
    ]
    return ", ".join(told) or None


def _default(info: Any, path: str) -> tuple[str | None, bool]:
    """The default of a field as JSON, and whether a function makes it."""
    if info.is_required():
        return None, False
    import pydantic_core

    fresh = info.default_factory is not None
    try:
        value = info.get_default(call_default_factory=True) if fresh else info.default
        return msgspec.json.encode(pydantic_core.to_jsonable_python(value)).decode(), fresh
    except Exception as error:
        raise refused(path, f"its default cannot be sent as JSON: {str(error)[:200]}") from error
