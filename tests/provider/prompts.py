"""A well-formed reply to any DSPy prompt: the plainest value of each output's type."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from dspex.testing.prompts import Output, form, rendered

if TYPE_CHECKING:
    from dspex.testing.chat import Prompt

#: Makes the value of one output field from the text to echo.
Maker = Callable[[str], Any]

_SCHEMA = "must adhere to the JSON schema: "
_ONE_OF = "must be one of: "


@lru_cache(maxsize=256)
def _makers(system: str) -> tuple[tuple[str, Maker], ...]:
    """Name and maker of each output that the instructions list."""
    return tuple((output.name, _maker(output)) for output in form(system).outputs)


def _maker(output: Output) -> Maker:
    """How to make a value of a type that is given by name and by the adapter's note about it."""
    kind, note = output.kind, output.note
    plain = {"int": 1, "float": 1.0, "bool": True}
    if kind in plain:
        return partial(_constant, plain[kind])
    if kind.startswith("Literal["):
        return partial(_constant, ast.literal_eval(kind.removeprefix("Literal"))[0])
    if note.startswith(_SCHEMA):
        schema = json.loads(note.removeprefix(_SCHEMA))
        return partial(_sample, schema, schema.get("$defs", {}))
    if note.startswith(_ONE_OF):
        return partial(_constant, note.removeprefix(_ONE_OF).split("; ")[0])
    if kind.startswith("list"):  # XMLAdapter gives no note about these two
        return partial(_constant, [])
    if kind.startswith("dict"):
        return partial(_constant, {})
    return str


def _constant(value: Any, echo: str) -> Any:
    return value


def _sample(schema: Mapping[str, Any], definitions: Mapping[str, Any], echo: str) -> Any:
    """The smallest value that fits a JSON schema of pydantic's; strings in it are the echo."""
    if "$ref" in schema:
        return _sample(definitions[schema["$ref"].rsplit("/", 1)[-1]], definitions, echo)
    for choices in ("anyOf", "oneOf", "allOf"):
        if choices in schema:
            return _sample(schema[choices][0], definitions, echo)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            properties = schema.get("properties", {})
            return {name: _sample(properties[name], definitions, echo) for name in schema.get("required", ())}
        case "array":
            count = schema.get("minItems", 0)
            items = schema.get("prefixItems", [schema.get("items", {})] * count)
            return [_sample(item, definitions, echo) for item in items]
        case "integer":
            return schema.get("minimum", 1)
        case "number":
            return schema.get("minimum", 1.0)
        case "boolean":
            return True
        case "null":
            return None
    return echo


def last_input(prompt: Prompt, inputs: tuple[str, ...]) -> str:
    """The text of the last input field that is not empty; the whole message if there are no fields.

    A value is cut where it holds a field's header, as ReAct's trajectory does: the echo has to be readable.
    """
    user = prompt.user
    for name in reversed(inputs):
        for opening, closing in (
            (f"[[ ## {name} ## ]]\n", "\n\nRespond with "),
            (f"<{name}>\n", f"\n</{name}>"),
        ):
            start = user.rfind(opening)
            if start >= 0:
                end = user.rfind(closing, start)
                value = user[start + len(opening) : end if end >= 0 else None]
                value = value.partition("[[ ## ")[0].strip()
                if value:
                    return value
    return "" if inputs else user.strip()


def echoed(prompt: Prompt) -> str:
    """A well-formed reply to any prompt: each output field by its type, text fields with the last input."""
    echo = last_input(prompt, form(prompt.system).inputs)
    makers = _makers(prompt.system)
    return rendered(prompt, {name: make(echo) for name, make in makers}) if makers else echo
