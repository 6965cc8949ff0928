"""Inputs are refused here, before a language model is asked: DSPy would only log a warning and pay."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import dspy
import msgspec
import pydantic
from dspy.adapters.utils import get_annotation_name

from dspex.errors import InvalidInput
from dspex.program.signature import Signature
from dspex.worker.media import as_declared, fault_of
from dspex.worker.shapes import plain

_MARK = "<<CUSTOM-TYPE-START-IDENTIFIER>>"
_END_MARK = "<<CUSTOM-TYPE-END-IDENTIFIER>>"
_STRICT = pydantic.ConfigDict(strict=True, arbitrary_types_allowed=True)


@lru_cache(maxsize=1024)
def _adapter(annotation: Any, _spelling: str) -> pydantic.TypeAdapter[Any]:
    try:
        return pydantic.TypeAdapter(annotation, config=_STRICT)
    except pydantic.PydanticUserError as error:
        if error.code != "type-adapter-config-unused":
            raise
        return pydantic.TypeAdapter(annotation)  # a model says itself how strict it is


def check_inputs(signature: Signature, types: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs as the program gets them.

    A value has to be of the declared type, or the JSON form of one (a date as ISO text, a tuple as a
    list). An input without a declared type takes any value, as in DSPy.

    Args:
        signature: The program's signature.
        types: The Python type of each input that declares one.
        inputs: Values by field name.

    Raises:
        InvalidInput: An input is missing, unknown or ill-typed; ``details`` names the fields.
    """
    refuse_text("instructions", signature.instructions)
    if unknown := [name for name in inputs if all(name != field.name for field in signature.inputs)]:
        raise InvalidInput(f"unknown inputs: {', '.join(unknown)}", details={"unknown": unknown})
    checked = {}
    for field in signature.inputs:
        if field.name in inputs:
            value = as_declared(types.get(field.name), inputs[field.name])
            if signature.path is not None:
                refuse_text(field.name, value)  # in an instance it would not be seen any more
            if field.name in types and (type(value) is not types[field.name] or type(value) is dspy.History):
                # The spelling of a class that only this worker knows is Any.
                known = None if signature.path is None else get_annotation_name(types[field.name])
                value = _convert(signature, field.name, known or field.type, types[field.name], value)
                value = plain(value) if signature.shapes else value
            refuse_text(field.name, value)
            checked[field.name] = value
        elif field.default is None and not (field.name in types and _allows_none(types[field.name])):
            raise InvalidInput(f"the input {field.name!r} is missing", details={"missing": [field.name]})
    return checked


def _convert(signature: Signature, name: str, spelling: str, annotation: Any, value: Any) -> Any:
    if annotation is dspy.History:
        return _history(signature, name, value)
    return convert(name, spelling, annotation, value)


def convert(name: str, spelling: str, annotation: Any, value: Any) -> Any:
    """A value as its type wants it: of that type already, or the JSON form of one.

    Args:
        name: The input's name.
        spelling: The type as people read it.
        annotation: The type.
        value: What was given.

    Raises:
        InvalidInput: It is neither.
    """
    adapter = _adapter(annotation, spelling)
    try:
        return adapter.validate_python(value)
    except (pydantic.ValidationError, TypeError) as error:
        if not _has_json_form(value):
            raise ill_typed(name, spelling, value, error) from None
        try:
            # A record that was an instance where it came from has the names of attributes.
            return adapter.validate_json(msgspec.json.encode(value), by_alias=True, by_name=True)
        except (pydantic.ValidationError, TypeError, ValueError):
            raise ill_typed(name, spelling, value, error) from None


def _has_json_form(value: Any) -> bool:
    # bytes would become base64 text, and NaN null, and so pass for a str and for None.
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_has_json_form, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_has_json_form, value))
    return not isinstance(value, bytes)


def _history(signature: Signature, name: str, value: Any) -> Any:
    if isinstance(value, dspy.History):
        value = {"messages": value.messages}
    turns = value.get("messages") if isinstance(value, dict) else value
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise InvalidInput(
            f"the input {name!r} has to be a list of turns, each a dict by field name",
            details={"field": name, "expected": "History", "got": type(value).__name__},
        )
    known = {field.name for field in (*signature.inputs, *signature.outputs)}
    fields = sorted(known - {name})
    if any(known.isdisjoint(turn) for turn in turns):
        raise InvalidInput(
            f"the input {name!r} has a turn that names none of the fields {', '.join(fields)}; messages with "
            "role and content go in the prompt",
            details={"field": name, "expected": "History", "known": fields},
        )
    return dspy.History(messages=turns)


def ill_typed(name: str, spelling: str, value: Any, error: Exception) -> InvalidInput:
    """What a caller is told of a value that is not of its type, without a word of the value."""
    place, reason = "", "it has parts that such a value does not take"
    if isinstance(error, pydantic.ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        place = "".join(f"[{part!r}]" for part in first["loc"])
        # What DSPy's own checks say may hold all of the value.
        reason = first["msg"].lower() if first["type"] != "value_error" else "it is none that can be used"
    return InvalidInput(
        f"the input {name + place!r} has to be {spelling}, and {type(value).__name__} given is not: {reason}",
        details={"field": name, "expected": spelling, "got": type(value).__name__},
    )


def _allows_none(annotation: Any) -> bool:
    return bool(dspy.adapters.utils.annotation_allows_none(annotation))


def refuse_text(name: str, value: Any, mark: str = _MARK) -> None:
    """Look at every text in a value.

    Args:
        name: The input's name.
        value: The value.
        mark: What must not stand in a text.

    Raises:
        InvalidInput: One is not valid Unicode, so that no provider could receive it, or holds the mark that
            DSPy reads as a file, an image or a tool: a caller's text must not become one.
    """
    if isinstance(value, str):
        if mark in value:
            raise InvalidInput(
                f"the input {name!r} holds {mark!r}, which DSPy would take for a file or an image of yours",
                details={"field": name},
            )
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise InvalidInput(
                    f"the input {name!r} holds text that is not valid Unicode", details={"field": name}
                ) from None
    elif isinstance(value, dict):
        for key, part in value.items():
            refuse_text(name, key, mark)
            refuse_text(name, part, mark)
    elif isinstance(value, list | tuple | set | frozenset):
        for part in value:
            refuse_text(name, part, mark)
    elif isinstance(value, pydantic.BaseModel):
        for part in vars(value).values():
            refuse_text(name, part, mark)
            if isinstance(value, dspy.Type):
                # DSPy puts it between two marks: with the second one in it, what follows would be read again.
                refuse_text(name, part, _END_MARK)
        if (fault := fault_of(value)) is not None:
            raise InvalidInput(f"the input {name!r}: {fault}", details={"field": name})
