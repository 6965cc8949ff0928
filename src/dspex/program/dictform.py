"""The dict form of a signature: what JSON can carry, and classes of the caller's beside it.

::

    {
        "inputs": {"mail": "str", "customer": {"type": "object", "properties": {...}}},
        "outputs": {
            "urgent": "bool",
            "kind": {"type": "Literal['order', 'complaint']", "description": "what it is about"},
            "address": Address,
        },
        "instructions": "Sort a mail.",
    }

A field is a type as text, None for text that nobody checks, a class, a JSON Schema, or a dict of its own with
``type`` (any of these), ``description`` and ``default``. ``inputs`` and ``outputs`` are a dict by name or, as
some languages' dicts have no order, a list of such dicts with ``name``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from dspex.program.annotations import refused
from dspex.program.given import Draft, Given, Side
from dspex.program.schemas import TYPES, plain
from dspex.program.signature import Field
from dspex.program.suggest import nearest

_PARTS = ("inputs", "outputs", "instructions", "$defs")
_FIELD = ("type", "description", "default")
_NOTHING = object()
# What only a JSON Schema has, where there is no "type" to tell it by.
_SCHEMA = frozenset({"$ref", "anyOf", "oneOf", "allOf", "enum", "const", "properties", "items"})


def read(given: Mapping[str, Any]) -> Given:
    """A signature from its dict form.

    Raises:
        InvalidSignature: Something in it is not taken; ``details["path"]`` is the place.
    """
    _refuse_unknown(given, _PARTS, "")
    instructions = given.get("instructions")
    if instructions is not None and not isinstance(instructions, str):
        raise refused("instructions", f"they are text, not {type(instructions).__name__}")
    definitions = plain(given.get("$defs") or {}, "$defs")
    if not isinstance(definitions, dict):
        raise refused("$defs", f"they are a dict of JSON Schemas by name, not {type(definitions).__name__}")
    draft = Draft()
    sides: tuple[tuple[Side, str], ...] = (("input", "inputs"), ("output", "outputs"))
    for side, key in sides:
        for name, said, path in _fields(given.get(key), key):
            field, own = _field(draft, name, said, path, definitions, side)
            draft.add(side, field, path, own)
    return draft.made(instructions)


def _fields(given: Any, path: str) -> Iterator[tuple[str, Any, str]]:
    if isinstance(given, Mapping):
        for name, said in given.items():
            yield name, said, f"{path}.{str(name)[:80]}"
    elif isinstance(given, list | tuple):
        for index, item in enumerate(given):
            place = f"{path}[{index}]"
            if isinstance(item, str):
                yield item, None, place
            elif isinstance(item, Mapping) and "name" in item:
                rest = {key: part for key, part in item.items() if key != "name"}
                yield item["name"], rest or None, place
            else:
                raise refused(place, "a field of a list is a name, or a dict with name")
    else:
        what = (
            "missing"
            if given is None
            else f"a dict of fields by name or a list of them, not {type(given).__name__}"
        )
        raise refused(path, f"{'they are ' if given is not None else ''}{what}")


def _field(
    draft: Draft, name: Any, said: Any, path: str, definitions: Mapping[str, Any], side: Side
) -> tuple[Field, Any]:
    """The field, and the caller's own type where there is a class of his in it."""
    if not isinstance(name, str):
        raise refused(path, f"a field is named by text, not {type(name).__name__}")
    description, default = None, _NOTHING
    if isinstance(said, Mapping) and not _is_schema(said):
        _refuse_unknown(said, _FIELD, f"{path}.")
        description, default = said.get("description"), said.get("default", _NOTHING)
        kind, place = said.get("type"), f"{path}.type"
    else:
        kind, place = said, path
    own = None
    if kind is None:
        spelled = "str"
    elif isinstance(kind, str):
        spelled = kind
    elif isinstance(kind, Mapping):
        schema = plain(kind, place)
        spelled = draft.described(schema, place, name, definitions)
        description = schema.get("description") if description is None else description
        default = schema.get("default", _NOTHING) if default is _NOTHING else default
    else:
        spelled, has_classes = draft.annotated(kind, place)
        own = kind if has_classes else None
    if description is not None and not isinstance(description, str):
        raise refused(f"{path}.description", f"it is text, not {type(description).__name__}")
    text = None
    if default is not _NOTHING:
        text = msgspec.json.encode(plain(default, f"{path}.default")).decode()
    return Field(name, spelled, description or None, kind is not None or side == "output", text), own


def _is_schema(said: Mapping[str, Any]) -> bool:
    kind = said.get("type")
    if isinstance(kind, list) or (isinstance(kind, str) and kind in TYPES):
        return True
    return not _SCHEMA.isdisjoint(said) and kind is None


def _refuse_unknown(given: Mapping[str, Any], known: tuple[str, ...], prefix: str) -> None:
    for key in given:
        if key not in known:
            shown = str(key)[:80]
            close = nearest(shown, known)
            hint = f"did you mean {close!r}?" if close else f"there are {', '.join(known)}"
            raise refused(f"{prefix}{shown}", f"there is nothing of that name in a signature; {hint}")
