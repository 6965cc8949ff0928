"""Typed values of dspex's own on the wire: ``dspex.Image`` and its kind, and DSPy's types of the same names.

They have a code of their own, so that no class of a user's can be taken for one, and are built without being
handed in. DSPy is never imported here: its objects are known by their class, where somebody else has loaded
it. They travel as dspex's values, since what DSPy itself makes of them (``model_dump``) cannot be read back.
"""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import msgspec

from dspex.errors import DspexError
from dspex.media.files import Audio, Document, File, Image
from dspex.media.text import Code, Reasoning
from dspex.media.turns import Citation, Citations, History, ToolCall, ToolCalls
from dspex.wire.codes import Refusal, WireError

#: The classes by the names that they have on the wire.
CLASSES: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        Audio,
        Citation,
        Citations,
        Code,
        Document,
        File,
        History,
        Image,
        Reasoning,
        ToolCall,
        ToolCalls,
    )
}
_NAMES = {kind: name for name, kind in CLASSES.items()}
# Where DSPy has its own: the module, and the way to the class in it.
_IN_DSPY = {
    "Audio": ("dspy.adapters.types.audio", "Audio"),
    "Citation": ("dspy.adapters.types.citation", "Citations.Citation"),
    "Citations": ("dspy.adapters.types.citation", "Citations"),
    "Code": ("dspy.adapters.types.code", "Code"),
    "Document": ("dspy.adapters.types.document", "Document"),
    "File": ("dspy.adapters.types.file", "File"),
    "History": ("dspy.adapters.types.history", "History"),
    "Image": ("dspy.adapters.types.image", "Image"),
    "Reasoning": ("dspy.adapters.types.reasoning", "Reasoning"),
    "ToolCall": ("dspy.adapters.types.tool", "ToolCalls.ToolCall"),
    "ToolCalls": ("dspy.adapters.types.tool", "ToolCalls"),
}
# Those that are a list of another one, by the field that has it.
_PARTS: dict[str, tuple[str, type[msgspec.Struct]]] = {
    "Citations": ("citations", Citation),
    "ToolCalls": ("tool_calls", ToolCall),
}
_TEXTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "Code": lambda fields: Code(fields["code"], fields["language"]),
    "Reasoning": lambda fields: Reasoning(fields["content"]),
}


def key(name: str) -> str:
    """What a class of DSPy's is called among the classes that may be built; no class of a user's is."""
    return f"={name}"


class Typed(NamedTuple):
    """What a typed value holds.

    Attributes:
        name: Its name on the wire.
        fields: Its fields.
        kind: Its class, when that is DSPy's.
    """

    name: str
    fields: dict[str, Any]
    kind: type | None = None


def read(value: Any) -> Typed | None:
    """What a typed value holds; None when it is no such.

    Raises:
        Refusal: It is one, with something else in it than it may have.
    """
    kind = type(value)
    name = _NAMES.get(kind)
    if name is not None:
        fields = _fields(name, value, getattr)
        try:
            return Typed(name, _cleaned(name, fields))
        except (msgspec.ValidationError, DspexError) as error:
            raise Refusal(f"it is a `dspex.{name}` that is not well made: {error}") from None
    name = dspy_name(kind)
    if name is None:
        return None
    try:
        fields = _fields(name, value, lambda part, field: vars(part)[field])
        if name == "Code":
            fields["language"] = cast("Any", kind).language
        return Typed(name, _cleaned(name, fields), kind)
    except (KeyError, TypeError, msgspec.ValidationError, DspexError):
        return None  # DSPy lets more pass; it goes as any other model does


def plain(value: Any) -> Any:
    """One of DSPy's typed values as dspex's; None when it is none."""
    found = None if type(value) in _NAMES else read(value)
    return None if found is None else _make(found.name, found.fields)


def build(name: Any, fields: Any, types: Mapping[str, type]) -> Any:
    """The value with these fields: of DSPy's class where that may be built, else of dspex's.

    Raises:
        WireError: There is no such value.
    """
    if type(name) is not str or name not in CLASSES or type(fields) is not dict:
        raise WireError("malformed value: a typed value")
    try:
        kind: Any = types.get(key(name))
        return _make(name, fields) if kind is None else _in_dspy(kind, name, _cleaned(name, fields))
    except (KeyError, TypeError, msgspec.ValidationError, DspexError) as error:
        raise WireError(f"malformed value: a {name}: {error}") from None


def dspy_name(kind: type) -> str | None:
    """Which of DSPy's types it is; None when it is none of them, a subclass of one included."""
    pydantic = sys.modules.get("pydantic.main")
    if pydantic is None or getattr(pydantic, "BaseModel", None) not in kind.__mro__:
        return None
    for name, (module, way) in _IN_DSPY.items():
        loaded = sys.modules.get(module)
        if loaded is None:
            continue
        found = operator.attrgetter(way)(loaded)
        # `dspy.Code["java"]` makes a class of its own.
        if kind is found or (name == "Code" and _is_for_language(kind, found)):
            return name
    return None


@functools.lru_cache(64)
def code_class(kind: Any, language: str) -> Any:
    """``dspy.Code[language]``, which would otherwise be another class each time.

    Args:
        kind: ``dspy.Code``, or itself one of its classes for a language.
        language: The language.
    """
    if language == kind.language:
        return kind
    return (kind.__mro__[1] if "_" in kind.__name__ else kind)[language]


def _is_for_language(kind: type, code: Any) -> bool:
    return kind.__mro__[1] is code and kind.__name__ == f"Code_{vars(kind).get('language')}"


def _fields(name: str, value: Any, get: Callable[[Any, str], Any]) -> dict[str, Any]:
    if name == "Code":
        return {"code": get(value, "code"), "language": getattr(value, "language", None)}
    if name == "Reasoning":
        return {"content": get(value, "content")}
    kind: Any = CLASSES[name]
    fields = {field: get(value, field) for field in kind.__struct_fields__}
    if name in _PARTS:
        part, of = _PARTS[name]
        fields[part] = [
            {field: get(item, field) for field in of.__struct_fields__} for item in list(fields[part])
        ]
    return fields


def _make(name: str, fields: dict[str, Any]) -> Any:
    make = _TEXTS.get(name)
    if make is not None:
        return make(fields)
    return msgspec.convert(fields, CLASSES[name])


def _cleaned(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields as the value has them once it is made, and so as it takes them."""
    made = _make(name, fields)
    return fields if name in _TEXTS or name in _PARTS else {field: getattr(made, field) for field in fields}


def _in_dspy(kind: Any, name: str, fields: dict[str, Any]) -> Any:
    # Without DSPy's own checks, which would take marks off code that are part of it.
    if name == "Code":
        return code_class(kind, fields["language"]).model_construct(code=fields["code"])
    if name in _PARTS:
        part, _ = _PARTS[name]
        of = getattr(kind, name[:-1])
        fields = {**fields, part: [of.model_construct(**item) for item in fields[part]]}
    return kind.model_construct(**fields)
