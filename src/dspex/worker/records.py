"""Records and enums for a program of the user's own, made again from what travels: fields, a value."""

from __future__ import annotations

import dataclasses
import enum
import typing
from typing import Any

import dspy
import pydantic
from dspy.adapters.utils import get_annotation_name

from dspex.worker.validate import ill_typed

_DSPYS = (dspy.Type, dspy.History)


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """A type that has a model, a dataclass or an enum in it.

    Attributes:
        spelling: The type as people read it.
        adapter: What makes its values.
    """

    spelling: str
    adapter: pydantic.TypeAdapter[Any]

    def made(self, name: str, value: Any) -> Any:
        """A value as the program's own code would have it.

        Args:
            name: The parameter's name.
            value: What was given.

        Raises:
            InvalidInput: It cannot be made of this.
        """
        try:
            # What was an instance where it came from has the names of attributes.
            return self.adapter.validate_python(value, by_alias=True, by_name=True)
        except (pydantic.ValidationError, TypeError) as error:
            raise ill_typed(name, self.spelling, value, error) from None


def record_of(annotation: Any) -> Record | None:
    """The record type that a parameter is annotated with; None when no such class is in it."""
    if not _has_record(annotation):
        return None
    try:
        return Record(get_annotation_name(annotation), pydantic.TypeAdapter(annotation))
    except Exception:  # noqa: BLE001 (it names a class that pydantic cannot check, and takes what comes)
        return None


def _has_record(annotation: Any) -> bool:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return False
    return _is_record(origin or annotation) or any(map(_has_record, args))


def _is_record(kind: Any) -> bool:
    if not isinstance(kind, type) or issubclass(kind, _DSPYS):
        return False
    return issubclass(kind, enum.Enum | pydantic.BaseModel) or dataclasses.is_dataclass(kind)
