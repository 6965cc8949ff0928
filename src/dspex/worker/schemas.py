"""From JSON Schema to types that pydantic checks values by.

What a schema says beyond what is known here is not checked, and never run. Shapes that were made from a class
of the caller's are checked once more by that class, in his process.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
import operator
import typing
import uuid
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pydantic
from pydantic_core import SchemaError, SchemaValidator, core_schema

_PLAIN: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "null": type(None),
    "array": list,
    "object": dict[str, Any],
}
_FORMATS: dict[str, Any] = {
    "date": dt.date,
    "date-time": dt.datetime,
    "time": dt.time,
    "duration": dt.timedelta,
    "uuid": uuid.UUID,
}
_BOUNDS = {
    "minimum": "ge",
    "maximum": "le",
    "exclusiveMinimum": "gt",
    "exclusiveMaximum": "lt",
    "multipleOf": "multiple_of",
}
_LENGTHS = {
    "string": ("minLength", "maxLength"),
    "array": ("minItems", "maxItems"),
    "object": ("minProperties", "maxProperties"),
}

#: Gives the type for a reference, and for an object with properties.
Link = Callable[[Any], Any]


def annotation(schema: Any, link: Link, *, exact: bool = False) -> Any:
    """The type that a schema describes.

    Args:
        schema: The schema, or a part of one.
        link: Gives the type for a ``{"$ref": ...}``, and a class for an object with properties.
        exact: Whether a class of the caller's checks it once more: sets are lists in a schema, in which a
            class takes a member twice.
    """
    if not isinstance(schema, dict):
        return Any
    if isinstance(schema.get("$ref"), str):
        return link(schema)
    for keyword in ("anyOf", "oneOf", "allOf"):
        parts = schema.get(keyword)
        if isinstance(parts, list) and parts:
            return _union([annotation(part, link, exact=exact) for part in parts])
    if "const" in schema:
        return _one_of([schema["const"]])
    if isinstance(schema.get("enum"), list):
        return _one_of(schema["enum"])
    kind = schema.get("type")
    if isinstance(kind, list):
        return _union([annotation({**schema, "type": one}, link, exact=exact) for one in kind])
    if schema.get("properties") and kind in (None, "object"):
        return link(schema)
    if kind == "array":
        return _bounded(_array(schema, link, exact), schema, kind)
    if kind == "object":
        more = schema.get("additionalProperties")
        values = dict.__class_getitem__(
            (str, annotation(more, link, exact=exact) if isinstance(more, dict) else Any)
        )
        return _bounded(values, {**schema, "maxProperties": 0} if more is False else schema, kind)
    if kind == "string" and schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    return _bounded(_PLAIN[kind], schema, kind) if kind in _PLAIN else Any


def _union(parts: list[Any]) -> Any:
    return functools.reduce(lambda left, right: typing.Union[left, right], parts)  # noqa: UP007


def _array(schema: dict[str, Any], link: Link, exact: bool) -> Any:
    items = schema.get("items", True)
    prefix = schema.get("prefixItems")
    if isinstance(prefix, list) and prefix:
        parts = tuple(annotation(part, link, exact=exact) for part in prefix)
        if schema.get("minItems") == schema.get("maxItems") == len(parts):
            return tuple[parts]  # type: ignore[valid-type]
        made: Any = list
    else:
        made = list[annotation(items, link, exact=exact)] if isinstance(items, dict) else list  # type: ignore[misc]
    if schema.get("uniqueItems") is True and not exact:
        return Annotated[made, pydantic.AfterValidator(_unique)]
    return made


def _unique(values: list[Any]) -> list[Any]:
    seen = {json.dumps(value, sort_keys=True, default=str) for value in values}
    if len(seen) != len(values):
        raise ValueError("its items have to differ from each other")
    return values


def _one_of(values: list[Any]) -> Any:
    if all(value is None or type(value) in (str, int, bool) for value in values):
        return Literal[tuple(values)]

    def known(value: Any) -> Any:
        if not any(type(value) is type(one) and operator.eq(value, one) for one in values):
            raise ValueError("it is none of the values that are allowed")
        return value

    return Annotated[Any, pydantic.AfterValidator(known)]


def _bounded(made: Any, schema: dict[str, Any], kind: str) -> Any:
    bounds: dict[str, Any] = {}
    if kind in ("integer", "number"):
        bounds = {ours: schema[theirs] for theirs, ours in _BOUNDS.items() if theirs in schema}
    elif kind in _LENGTHS:
        shortest, longest = _LENGTHS[kind]
        bounds = {"min_length": schema.get(shortest), "max_length": schema.get(longest)}
    if kind == "string" and _is_pattern(schema.get("pattern")):
        bounds["pattern"] = schema["pattern"]
    bounds = {name: bound for name, bound in bounds.items() if bound is not None}
    return Annotated[made, pydantic.Field(**bounds)] if bounds else made


def _is_pattern(pattern: Any) -> bool:
    """Whether the engine takes it whose time is in proportion to the text; others are not checked."""
    if not isinstance(pattern, str):
        return False
    try:
        SchemaValidator(core_schema.str_schema(pattern=pattern))
    except SchemaError:
        return False
    return True
