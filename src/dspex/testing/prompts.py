"""What a DSPy prompt asks for, read from its text alone, and values in the form that it asks for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any, Literal

import msgspec

from dspex.testing.chat import Prompt

Style = Literal["chat", "json", "xml"]

_FIELD = re.compile(r"^\d+\. `(\w+)` \((.*?)\):(?: |$)", re.MULTILINE)
_NOTE = re.compile(r"^\{(\w+)\} +# note: the value you produce (.*)$", re.MULTILINE)
_OUTPUTS = "\nYour output fields are:\n"
_STRUCTURE = "\nAll interactions will be structured in the following way"
_JSON_OUTPUTS = "Outputs will be a JSON object with the following fields.\n\n"
# What the last paragraph of the user's message begins with.
_RESPOND = "\n\nRespond with "


@dataclass(frozen=True, slots=True)
class Output:
    """One output field.

    Attributes:
        name: Its name.
        kind: Its type as the prompt names it.
        note: What the prompt says of its value (``"must adhere to the JSON schema: …"``); may be empty.
    """

    name: str
    kind: str
    note: str


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a signature, as its instructions list them.

    Attributes:
        inputs: Names of the input fields.
        outputs: The output fields; empty when the prompt is not one of DSPy's chat, JSON and XML adapters.
    """

    inputs: tuple[str, ...]
    outputs: tuple[Output, ...]


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
        tuple(Output(name, kind, notes.get(name, "")) for name, kind in _FIELD.findall(outputs)),
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


def style(prompt: Prompt) -> Style:
    """The form in which the prompt wants its reply."""
    wanted = prompt.user.rpartition(_RESPOND)[2]
    if prompt.json or wanted.startswith("a JSON object"):
        return "json"
    return "xml" if "wrapped in XML tags" in wanted else "chat"


def inputs_of(prompt: Prompt, names: tuple[str, ...]) -> dict[str, str]:
    """The text of each input field that the user's last message shows."""
    shown = prompt.user.rpartition(_RESPOND)[0] or prompt.user
    starts = []
    position = 0
    for name in names:
        for opening, closing in ((f"[[ ## {name} ## ]]\n", ""), (f"<{name}>\n", f"\n</{name}>")):
            found = shown.find(opening, position)
            if found >= 0:
                position = found + len(opening)
                starts.append((name, found, position, closing))
                break
    ends = [start for _, start, _, _ in starts[1:]] + [len(shown)]
    return {
        name: shown[begin:end].strip().removesuffix(closing.strip()).strip()
        for (name, _, begin, closing), end in zip(starts, ends, strict=False)
    }


def rendered(prompt: Prompt, values: Mapping[str, Any]) -> str:
    """Field values in the form that the prompt wants.

    Raises:
        TypeError: A value has no JSON form.
    """
    match style(prompt):
        case "json":
            return _json(values)
        case "xml":
            return "\n\n".join(f"<{name}>\n{_escaped(value)}\n</{name}>" for name, value in values.items())
        case "chat":
            shown = "".join(f"[[ ## {name} ## ]]\n{_shown(value)}\n\n" for name, value in values.items())
            return shown + "[[ ## completed ## ]]"


def _shown(value: Any) -> str:
    if isinstance(value, Enum):
        value = value.value
    return str(value) if isinstance(value, str | bool | int | float) else _json(value)


def _escaped(value: Any) -> str:
    return _shown(value).replace("&", "&amp;").replace("<", "&lt;")


def _json(value: Any) -> str:
    return msgspec.json.encode(value, enc_hook=_dumped).decode()


def _dumped(value: Any) -> Any:
    """A pydantic model as plain data."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no JSON form")
