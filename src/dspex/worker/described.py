"""What is to be said of a signature: its fields as a module has them, with their JSON Schemas."""

from __future__ import annotations

from typing import Any

import dspy
import pydantic
from dspy.adapters.utils import annotation_allows_none, get_annotation_name

from dspex.program import catalogue
from dspex.program.importpath import require_allowed, split
from dspex.program.spec import ProgramSpec, make
from dspex.worker import paths, users
from dspex.worker.signatures import dspy_signature


def signature_of(spec: ProgramSpec) -> dict[str, Any]:
    """The fields and instructions of a signature, with the outputs that its module adds."""
    made = dspy_signature(spec.declared)
    for name in reversed(catalogue.find(spec.module).adds_outputs):
        if name not in made.output_fields:
            made = made.prepend(name, dspy.OutputField(), str)
    return {
        "module": spec.module,
        "instructions": made.instructions,
        "inputs": _fields(made.input_fields),
        "outputs": _fields(made.output_fields),
    }


def by_path(path: str, allow_modules: list[str]) -> dict[str, Any]:
    """What an import path names: a signature, or a program of the user's own.

    Raises:
        DspexError: It names neither, or is not allowed.
    """
    require_allowed(path, allow_modules)
    module, name = split(path)
    found = getattr(users.imported(path, module), name, None)
    if isinstance(found, type) and issubclass(found, pydantic.BaseModel):
        return signature_of(make("dspy.Predict", paths.declared(path, allow_modules)))
    return users.describe(path, allow_modules)


def _fields(fields: Any) -> dict[str, Any]:
    described = {}
    for name, info in fields.items():
        try:
            schema = pydantic.TypeAdapter(info.annotation).json_schema()
        except (pydantic.errors.PydanticInvalidForJsonSchema, pydantic.errors.PydanticSchemaGenerationError):
            schema = {}
        description = info.json_schema_extra["desc"]
        described[name] = {
            "type": get_annotation_name(info.annotation),
            "schema": schema,
            "description": None if description == f"${{{name}}}" else description,
            "required": info.is_required() and not annotation_allows_none(info.annotation),
        }
    return described
