"""Signatures by import path: classes of the user's own, loaded once and used as they are."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import dspy
import pydantic

from dspex.errors import InvalidSignature
from dspex.program import classform
from dspex.program.annotations import Spelling
from dspex.program.importpath import is_allowed, not_allowed, require_allowed, split
from dspex.program.shapes import Keys
from dspex.program.signature import Field, Signature, type_of
from dspex.program.suggest import nearest
from dspex.worker.users import imported

#: The classes of this process that were loaded, by import path; those of models as signatures.
_loaded: dict[str, Any] = {}


def load(path: str, allow_modules: list[str]) -> Any:
    """The ``dspy.Signature`` class that a path names; blocks for as long as its module's code does.

    Raises:
        NotAllowed: The operator did not allow it, or the class is one from elsewhere.
        InvalidSignature: There is no such class, or it is no signature.
        PythonError: Its module failed.
    """
    require_allowed(path, allow_modules)
    if path in _loaded:
        return _loaded[path]
    module, name = split(path)
    found = getattr(imported(path, module), name, None)
    if not isinstance(found, type) or not issubclass(found, pydantic.BaseModel):
        known = [
            other
            for other, value in vars(imported(path, module)).items()
            if isinstance(value, type) and issubclass(value, pydantic.BaseModel) and not other.startswith("_")
        ]
        close = nearest(name, known)
        hint = f"did you mean {close!r}?" if close else f"its signatures are {', '.join(known) or 'none'}"
        raise InvalidSignature(
            f"{path} is no dspy.Signature and no pydantic model; {hint}",
            details={"path": path, "known": known},
        )
    if not is_allowed(found.__module__, allow_modules):
        # What a module imports for its own use is not on offer.
        raise not_allowed(f"{found.__module__}:{name}", found.__module__)
    _loaded[path] = found if issubclass(found, dspy.Signature) else _of_model(found)
    return _loaded[path]


def loaded(path: str) -> Any:
    """A class that was loaded before."""
    return _loaded[path]


def declared(path: str, allow_modules: list[str]) -> Signature:
    """What a caller has to know of such a signature.

    Raises:
        DspexError: As for ``load``.
    """
    kind = load(path, allow_modules)
    inputs = tuple(_field(name, info) for name, info in kind.input_fields.items())
    outputs = tuple(_field(name, info) for name, info in kind.output_fields.items())
    return Signature(inputs, outputs, kind.instructions, path=path)


def with_changes(kind: Any, signature: Signature, made: dict[str, tuple[Any, Any]]) -> Any:
    """The class as it is, or one with the inputs and the instructions that a call has added.

    Args:
        kind: The class.
        signature: What the call wants.
        made: Fields that the class does not have, as DSPy wants them.
    """
    if not made and signature.instructions == kind.instructions:
        return kind
    inputs = {name: (info.annotation, copy.deepcopy(info)) for name, info in kind.input_fields.items()}
    outputs = {name: (info.annotation, copy.deepcopy(info)) for name, info in kind.output_fields.items()}
    return dspy.make_signature({**inputs, **made, **outputs}, signature.instructions or kind.instructions)


def _of_model(model: type[pydantic.BaseModel]) -> Any:
    fields: dict[str, tuple[Any, Any]] = {classform.MODEL_INPUT: (str, dspy.InputField())}
    for name, info in model.model_fields.items():
        told: dict[str, Any] = {} if info.description is None else {"desc": info.description}
        if info.default_factory is not None:
            told["default_factory"] = info.default_factory
        elif not info.is_required():
            told["default"] = info.default
        fields[name] = (info.annotation, dspy.OutputField(**told))
    doc = vars(model).get("__doc__")
    made = dspy.make_signature(fields, inspect.cleandoc(doc) if doc else None)
    for name, info in model.model_fields.items():
        constraints = classform.constraints_of(info)
        if constraints is not None:
            made.model_fields[name].json_schema_extra["constraints"] = constraints
    return made


def _field(name: str, info: Any) -> Field:
    extra = info.json_schema_extra
    typed = not extra.get("IS_TYPE_UNDEFINED")
    description = None if extra["desc"] == f"${{{name}}}" else extra["desc"]
    default = None if info.is_required() else "null"
    return Field(name, _spelled(info.annotation), description, typed, default, extra.get("constraints"))


def _spelled(annotation: Any) -> str:
    """As a string form would spell it; a class is ``Any`` there, as only a worker knows it."""
    spelling = Spelling(Keys())
    try:
        spelled = spelling.of(annotation, "field")
        if not spelling.has_classes(spelled):
            return type_of(spelled).spelled()
    except InvalidSignature:
        pass
    return "Any | None" if dspy.adapters.utils.annotation_allows_none(annotation) else "Any"
