"""Values of the caller's own classes: data on the way out, and instances again when they come back.

A worker has the JSON Schemas of these classes and none of their code. Validators, serializers and whatever
else is code runs here, in the process that has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dspex.errors import InvalidInput, ParseError

if TYPE_CHECKING:
    import pydantic

_TEXT_KEPT = 10_000


@lru_cache(512)
def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    # Loaded by whoever handed in a class, as a rule.
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def sendable(types: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs as a worker gets them: those of the caller's classes checked by these, and as data.

    Args:
        types: The caller's own type of each input that has one.
        inputs: Values by field name: instances, or what makes one.

    Raises:
        InvalidInput: One of them is not of its type.
    """
    return {name: _sent(name, types[name], part) if name in types else part for name, part in inputs.items()}


def _sent(name: str, kind: Any, value: Any) -> Any:
    from pydantic import ValidationError

    try:
        made = _adapter(kind).validate_python(value, by_alias=True, by_name=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = "".join(f"[{part!r}]" for part in first["loc"])
        raise InvalidInput(
            f"the input {name + place!r} is not what the signature says: {first['msg'].lower()}",
            details={"field": name, "expected": _shown(kind), "got": type(value).__name__},
        ) from None
    # As DSPy writes a value into a prompt, so that the same text gets there.
    own: Any = type(made)
    try:
        return _adapter(own).dump_python(made, mode="json", fallback=str)
    except Exception:  # noqa: BLE001 (a serializer of the user's may do anything here)
        return str(made)


def rebuilt(types: Mapping[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:
    """Outputs as the caller's own types.

    Args:
        types: The caller's own type of each output that has one.
        outputs: What the worker sent, by field name.

    Raises:
        ParseError: One of them is not of its type: a validator refuses it, or something else that no JSON
            Schema says.
    """
    return {name: _made(name, types[name], part) if name in types else part for name, part in outputs.items()}


def _made(name: str, kind: Any, value: Any) -> Any:
    import json

    from pydantic import ValidationError

    adapter = _adapter(kind)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        try:
            # The names of attributes instead of aliases, which DSPy's XML has.
            return adapter.validate_python(value, by_alias=True, by_name=True)
        except ValidationError:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = "".join(f"[{part!r}]" for part in first["loc"])
    raise ParseError(
        f"the model's {name + place!r} has the form that was asked for, but {_shown(kind)} refuses it: "
        f"{first['msg']}; say in its description what it has to be",
        details={
            "text": json.dumps(value, default=str)[:_TEXT_KEPT],
            "field": name,
            "expected": _shown(kind),
            "reason": first["msg"],
        },
    )


def _shown(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")[:200]
