"""Records and enums as they travel: data that a worker makes classes from, never code.

A record or an enum of the caller's is known to a worker by its JSON Schema alone, which is all that a model
is ever shown of it. The schemas of one signature form one graph: ``{"$ref": "#/$defs/t3"}`` is the fourth.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from dspex.errors import InvalidSignature
from dspex.program.fieldtypes import canonical

#: Types of one signature, those inside others included.
MAX_SHAPES = 200
#: Bytes of all their schemas.
MAX_SCHEMAS = 256 * 1024
#: Schemas inside schemas, at most.
MAX_DEPTH = 32
# Parts of a schema that hold values, and such as hold schemas by names of the caller's.
_NOT_SCHEMAS = frozenset({"default", "const", "enum", "examples", "example"})
_NAMED = frozenset({"properties", "patternProperties", "$defs", "dependentSchemas"})
#: How a schema names another one of its signature.
REFERENCE = "#/$defs/t"
_REFERENCE = re.compile(r"#/\$defs/t(0|[1-9][0-9]{0,3})")

Kind = Literal["record", "root", "enum", "value"]


class Shape(msgspec.Struct, frozen=True, array_like=True):
    """One type that is not Python's own.

    Attributes:
        key: How the types of fields spell it; empty when only other shapes refer to it.
        name: The name of its class, as a model is shown it.
        home: Module and qualified name of its class, by which pydantic tells types of one name apart.
        kind: ``record`` has fields, ``root`` is a pydantic model around one value, ``enum`` has members, and
            of a ``value`` only the schema is known.
        schema: Its JSON Schema as text.
        by_name: The same with the names of attributes where aliases differ from them; empty where none does.
        members: Of an enum the names and values of its members, as JSON.
        exact: Whether the caller has the class, so that it is to get what the model wrote; else he gets it
            as the schema reads it.
        defined: Whether schemas define it apart and refer to it, as they do with classes.
        bends: Whether it refuses unknown fields where what it is in does: dataclasses and typed dicts have no
            configuration of their own.
    """

    key: str
    name: str
    home: str
    kind: Kind
    schema: str
    by_name: str = ""
    members: str = ""
    exact: bool = True
    defined: bool = True
    bends: bool = False


class Keys:
    """How the types of one signature are spelled, each in a way of its own."""

    def __init__(self) -> None:
        self._used: set[str] = {"True", "False", "None"}

    def new(self, name: str) -> str:
        """A spelling for a type of that name, which is no spelling of another type."""
        base = re.sub(r"\W", "_", name, flags=re.ASCII)[:80].strip("_")
        base = base if base.isidentifier() else "Type"
        key, count = base, 1
        while key in self._used or canonical(key) is not None:
            count += 1
            key = f"{base}_{count}"
        self._used.add(key)
        return key


def check(shapes: tuple[Shape, ...]) -> None:
    """Refuse shapes that are too many or too large, or that refer to what is not there.

    Raises:
        InvalidSignature: They are.
    """
    for shape in shapes:
        try:
            msgspec.convert(msgspec.to_builtins(shape), Shape)
        except (msgspec.ValidationError, TypeError) as error:
            raise InvalidSignature(f"a type of the signature is not what it has to be: {error}") from None
    if len(shapes) > MAX_SHAPES:
        raise InvalidSignature(f"a signature has at most {MAX_SHAPES} types of its own, not {len(shapes)}")
    size = sum(len(shape.schema) + len(shape.by_name) + len(shape.members) for shape in shapes)
    if size > MAX_SCHEMAS:
        raise InvalidSignature(
            f"the JSON Schemas of a signature have at most {MAX_SCHEMAS:,} characters, not {size:,}; shorten "
            "descriptions or enums, or name the signature by import path"
        )
    keys = [shape.key for shape in shapes if shape.key]
    odd = [key for key in keys if not key.isidentifier() or canonical(key) is not None or keys.count(key) > 1]
    if odd:
        raise InvalidSignature(f"{odd[0][:80]!a} cannot spell a type of a signature, or spells another one")
    for shape in shapes:
        for text in filter(None, (shape.schema, shape.by_name, shape.members)):
            _check_references(shape, text, len(shapes))


def _check_references(shape: Shape, text: str, count: int) -> None:
    try:
        named = references(msgspec.json.decode(text))
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidSignature(f"the schema of {shape.name!a} cannot be read: {error}") from None
    for reference in named:
        number = number_of(reference)
        if number is None or number >= count:
            raise InvalidSignature(
                f"the schema of {shape.name!a} refers to {reference[:80]!a}, which is not there"
            )


def number_of(reference: object) -> int | None:
    """The number of the shape that a reference names; None when it names none."""
    found = _REFERENCE.fullmatch(reference) if isinstance(reference, str) else None
    return None if found is None else int(found[1])


def relinked(schema: Any, link: Callable[[str], str]) -> Any:
    """A schema with every reference in it replaced.

    Raises:
        RecursionError: It is nested deeper than anybody's stack.
    """
    if isinstance(schema, list):
        return [relinked(part, link) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made: dict[str, Any] = {}
    for name, part in schema.items():
        if name == "$ref" and isinstance(part, str):
            made[name] = link(part)
        elif name in _NAMED and isinstance(part, dict):
            # Names of the caller's, which may be those of keywords.
            made[name] = {inner: relinked(schema, link) for inner, schema in part.items()}
        else:
            made[name] = part if name in _NOT_SCHEMAS else relinked(part, link)
    return made


def references(schema: Any) -> list[str]:
    """Every reference in a schema, in order."""
    found: list[str] = []

    def note(reference: str) -> str:
        found.append(reference)
        return reference

    relinked(schema, note)
    return found
