"""What a DSPy prompt asks for, read from its text alone, and a reply in the form that it asks for."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from tests.provider.dialects import Prompt

Style = Literal["chat", "json", "xml"]
#: Makes the value of one output field from the text to echo.
Maker = Callable[[str], Any]

_FIELD = re.compile(r"^\d+\. `(\w+)` \((.*?)\):(?: |$)", re.MULTILINE)
_NOTE = re.compile(r"^\{(\w+)\} +# note: the value you produce (.*)$", re.MULTILINE)
_OUTPUTS = "\nYour output fields are:\n"
_STRUCTURE = "\nAll interactions will be structured in the following way"
_JSON_OUTPUTS = "Outputs will be a JSON object with the following fields.\n\n"
_SCHEMA = "must adhere to the JSON schema: "
_ONE_OF = "must be one of: "


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a signature, as its instructions list them.

    Attributes:
        inputs: Names of the input fields.
        outputs: Name and maker of each output field; empty when the prompt is not one of DSPy's.
    """

    inputs: tuple[str, ...]
    outputs: tuple[tuple[str, Maker], ...]


@lru_cache(maxsize=256)
def form(system: str) -> Form:
    """Read the instructions that DSPy's chat, JSON and XML adapters write."""
    inputs, found, rest = system.partition(_OUTPUTS)
    if not found:
        return Form((), ())
    outputs, _, structure = rest.partition(_STRUCTURE)
    notes = dict(_NOTE.findall(_unpacked(structure)))
    return Form(
        tuple(name for name, _ in _FIELD.findall(inputs)),
        tuple((name, _maker(kind, notes.get(name, ""))) for name, kind in _FIELD.findall(outputs)),
    )


def _unpacked(structure: str) -> str:
    """The structure with the JSON object, which JSONAdapter shows, turned into lines like ChatAdapter's."""
    _, found, shown = structure.partition(_JSON_OUTPUTS)
    if not found:
        return structure
    try:
        values, _ = json.JSONDecoder().raw_decode(shown)
    except ValueError:
        return structure
    return "\n".join(str(value) for value in values.values())


def _maker(kind: str, note: str) -> Maker:
    """How to make a value of a type that is given by name and by the adapter's note about it."""
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


def style(prompt: Prompt) -> Style:
    """The form in which the prompt wants its reply."""
    if prompt.json or "Respond with a JSON object" in prompt.user:
        return "json"
    return "xml" if "wrapped in XML tags" in prompt.user else "chat"


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
    asked = form(prompt.system)
    echo = last_input(prompt, asked.inputs)
    if not asked.outputs:
        return echo
    return rendered(prompt, {name: make(echo) for name, make in asked.outputs})


def rendered(prompt: Prompt, values: Mapping[str, Any]) -> str:
    """Field values in the form that the prompt wants."""
    match style(prompt):
        case "json":
            return msgspec.json.encode(values).decode()
        case "xml":
            return "\n\n".join(f"<{name}>\n{_escaped(value)}\n</{name}>" for name, value in values.items())
        case "chat":
            shown = "".join(f"[[ ## {name} ## ]]\n{_shown(value)}\n\n" for name, value in values.items())
            return shown + "[[ ## completed ## ]]"


def _shown(value: Any) -> str:
    if isinstance(value, str | bool | int | float):
        return str(value)
    return msgspec.json.encode(value).decode()


def _escaped(value: Any) -> str:
    return _shown(value).replace("&", "&amp;").replace("<", "&lt;")
