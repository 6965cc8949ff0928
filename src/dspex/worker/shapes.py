"""Classes for a signature's shapes, of which a model is shown what it would be shown of the caller's own.

DSPy shows a model the JSON Schema and the name of a type, and treats pydantic models, enums and other classes
differently. So each class here has the name, the kind and, word for word, the schema of the caller's; its
fields are made from that schema.
"""

from __future__ import annotations

import enum
import json
import keyword
import threading
import warnings
from typing import Annotated, Any

import pydantic
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, RootModel
from pydantic_core import core_schema
from typing_extensions import TypedDict

from dspex.program.shapes import Shape, number_of, references, relinked
from dspex.worker.schemas import annotation

_busy = threading.local()
#: Marks the core schema of a typed dict or a dataclass that refuses unknown fields for once.
_BENT = "dspex_bent"


class _Told:
    """What a class made here is told about itself; pydantic asks it for its JSON Schema."""

    __dspex__: tuple[Shapes, int]

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> Any:
        told = getattr(cls, "__dspex__", None)
        if told is None:
            return handler(core)
        made = told[0].schema(told[1], handler.generate_json_schema)
        if core.get("metadata", {}).get(_BENT):
            made["additionalProperties"] = False
        return made


class Record(_Told, BaseModel):
    """A value with fields."""

    model_config = ConfigDict(
        defer_build=True,
        protected_namespaces=(),
        validate_by_name=True,
        validate_by_alias=True,
        arbitrary_types_allowed=True,
    )
    _dspex_raw: Any = PrivateAttr(None)

    @pydantic.model_validator(mode="wrap")
    @classmethod
    def _dspex_keep(cls, raw: Any, handler: Any) -> Any:
        made = handler(raw)
        if raw is not made:
            made._dspex_raw = raw
        return made


class Dict(Record):
    """A typed dict, which refuses unknown fields where what it is in does."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        return _bent(handler(source), handler)


class _Open(Record):
    model_config = ConfigDict(extra="allow")


class _Closed(Record):
    model_config = ConfigDict(extra="forbid")


class Root(_Told, RootModel[Any]):
    """A model around one value."""

    model_config = ConfigDict(defer_build=True)


class Member(_Told, enum.Enum):
    """A member of an enum."""


class Value(_Told):
    """A value of which only the schema is known; it is what it is, and never one of these."""

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, handler: Any) -> Any:
        shapes, number = cls.__dspex__
        return shapes.core_of_value(number, cls, handler)


class _Link:
    """Stands for the class of a shape that may not be made yet."""

    def __init__(self, shapes: Shapes, number: int) -> None:
        self._shapes = shapes
        self._number = number

    def __get_pydantic_core_schema__(self, _source: Any, handler: Any) -> Any:
        kind = self._shapes.classes[self._number]
        if (id(self._shapes), self._number) in _open("values"):
            return core_schema.definition_reference_schema(_reference(kind))
        return handler.generate_schema(kind)


class Shapes:
    """The classes of one signature's shapes.

    Args:
        shapes: The shapes.
        spelled: The spellings that types of fields have in them.

    Attributes:
        classes: Them by number.
        by_key: Those that fields name, by their spelling.
    """

    def __init__(self, shapes: tuple[Shape, ...], spelled: set[str]) -> None:
        self._shapes = shapes
        self._content = [json.loads(shape.schema) for shape in shapes]
        self.classes: list[Any] = []
        with warnings.catch_warnings():
            # A field may be named like a method of the class (``json``, ``copy``), and works all the same.
            warnings.simplefilter("ignore", UserWarning)
            self.classes = [self._made(number) for number in range(len(shapes))]
            # Others are made as parts of these; each by itself would make all that it mentions once more.
            for shape, kind in zip(shapes, self.classes, strict=True):
                if shape.key in spelled and issubclass(kind, BaseModel):
                    kind.model_rebuild(force=True)
        self.by_key = {shape.key: kind for shape, kind in zip(shapes, self.classes, strict=True) if shape.key}

    # The classes

    def _made(self, number: int) -> Any:
        shape, content = self._shapes[number], self._content[number]
        module, _, name = shape.home.rpartition(".")
        named: dict[str, Any] = {
            "__module__": module or "types",
            "__qualname__": name,
            "__dspex__": (self, number),
        }
        if shape.kind == "enum":
            members: Any = Member
            made = members(shape.name, json.loads(shape.members))
            made.__module__, made.__qualname__, made.__dspex__ = named["__module__"], name, (self, number)
            return made
        if shape.kind == "record" and not content.get("$ref"):
            by_name = json.loads(shape.by_name) if shape.by_name else content
            return self._record(shape.name, content, by_name, named, exact=shape.exact, bends=shape.bends)
        if shape.kind == "root":
            named["__annotations__"] = {"root": annotation(content, self._link, exact=shape.exact)}
            return _new(Root, shape.name, named)
        return type(shape.name, (Value,), named)

    def _record(
        self,
        name: str,
        content: dict[str, Any],
        by_name: dict[str, Any],
        named: dict[str, Any],
        *,
        exact: bool,
        bends: bool = False,
    ) -> Any:
        properties = content.get("properties", {})
        attributes = list(by_name.get("properties", {}))
        if len(attributes) != len(properties):
            attributes = list(properties)
        required = set(content.get("required", ()))
        annotations: dict[str, Any] = {}
        fields: dict[str, Any] = {}
        for position, (given, attribute) in enumerate(zip(properties, attributes, strict=True)):
            part = properties[given]
            field = attribute if _can_be_attribute(attribute) else f"field_{position}"
            while field in annotations:
                field += "_"
            default: Any = ... if given in required else None
            if isinstance(part, dict) and "default" in part and default is None:
                default = part["default"]
            annotations[field] = annotation(part, self._link, exact=exact)
            has_default = default is not ... and isinstance(part, dict) and "default" in part
            fields[field] = Field(default, alias=given, validate_default=has_default and not exact)
        more = content.get("additionalProperties")
        base: Any = _Closed if more is False else Record if more is None else _Open
        if bends:
            base = Dict
        if isinstance(more, dict):
            annotations["__pydantic_extra__"] = dict[str, annotation(more, self._link, exact=exact)]  # type: ignore[misc]
        namespace = {**named, **fields, "__annotations__": annotations}
        return _new(base, name, namespace)

    def _link(self, part: dict[str, Any]) -> Any:
        number = number_of(part.get("$ref"))
        if number is not None and number < len(self._shapes):
            return Annotated[Any, _Link(self, number)]
        if "$ref" in part:
            return Any
        return self._record(
            "Record", part, part, {"__module__": "types", "__qualname__": "Record"}, exact=False
        )

    def core_of_value(self, number: int, kind: Any, handler: Any) -> Any:
        """The core schema of a value's class."""
        with _Opened("values", (id(self), number)):
            exact = self._shapes[number].exact
            inner = handler.generate_schema(annotation(self._content[number], self._link, exact=exact))
        if not self._shapes[number].defined:
            return core_schema.no_info_after_validator_function(_itself, inner)
        made = core_schema.no_info_after_validator_function(_itself, inner, ref=_reference(kind))
        return _bent(made, handler) if self._shapes[number].bends else made

    def is_exact(self, number: int) -> bool:
        """Whether the caller has the class of a shape."""
        return self._shapes[number].exact

    # Their JSON Schemas

    def schema(self, number: int, generator: Any) -> Any:
        """The schema of a class as the caller's own has it, for a generator that gathers definitions."""
        shape = self._shapes[number]
        content = (
            json.loads(shape.by_name) if shape.by_name and not generator.by_alias else self._content[number]
        )
        with _Opened("schemas", (id(generator), number)):
            for reference in references(content):
                self._define(number_of(reference), generator)
        # A copy: who asked for it changes it.
        return relinked(json.loads(json.dumps(content)), lambda reference: self._named(reference, generator))

    def _define(self, number: int | None, generator: Any) -> None:
        if number is not None and (id(generator), number) not in _open("schemas"):
            # Nothing of it but its schema is looked at.
            kind = self.classes[number]
            told = {"pydantic_js_functions": [kind.__get_pydantic_json_schema__]}
            generator.generate_inner(core_schema.any_schema(ref=_reference(kind), metadata=told))

    def _named(self, reference: str, generator: Any) -> str:
        number = number_of(reference)
        if number is None:
            return reference
        _, found = generator.get_cache_defs_ref_schema(_reference(self.classes[number]))
        return str(found["$ref"])


class _Probe(TypedDict):
    """Shows how unknown fields are taken where it is put."""


def _bent(made: Any, handler: Any) -> Any:
    shown = handler.resolve_ref_schema(handler.generate_schema(_Probe))
    if shown.get("config", {}).get("extra_fields_behavior") != "forbid":
        return made
    # A copy: elsewhere the same class is not bent.
    own = handler.resolve_ref_schema(made)
    return {**own, "metadata": {**own.get("metadata", {}), _BENT: True}}


class _Opened:
    """Something that is being made, so that what refers to itself ends."""

    def __init__(self, what: str, mark: tuple[int, int]) -> None:
        self._marks = _open(what)
        self._mark = mark

    def __enter__(self) -> None:
        self._marks.add(self._mark)

    def __exit__(self, *_: object) -> None:
        self._marks.discard(self._mark)


def _open(what: str) -> set[tuple[int, int]]:
    marks: dict[str, set[tuple[int, int]]] = _busy.__dict__.setdefault("marks", {})
    return marks.setdefault(what, set())


def _new(base: Any, name: str, namespace: dict[str, Any]) -> Any:
    return type(base)(name, (base,), namespace)


def _itself(value: Any) -> Any:
    return value


def _reference(kind: Any) -> Any:
    # As pydantic itself names a class; it makes the names in prompts from this.
    return f"{kind.__module__}.{kind.__qualname__}:{id(kind)}"


def _can_be_attribute(name: str) -> bool:
    return (
        name.isidentifier()
        and not keyword.iskeyword(name)
        and not name.startswith(("_", "model_"))
        and name not in ("self", "root")
    )


def plain(value: Any) -> Any:
    """A value with every instance of a class made here as data.

    Of a record it is what the model wrote where the caller has the class, else its fields by the names that
    the schema has for them.
    """
    if isinstance(value, Record):
        told = getattr(type(value), "__dspex__", None)
        if told is not None and told[0].is_exact(told[1]) and value._dspex_raw is not None:
            return plain(value._dspex_raw)
        return _fields(value)
    if isinstance(value, Root):
        return plain(value.root)
    if isinstance(value, Member):
        return value.value
    if isinstance(value, dict):
        return {plain(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(map(plain, value))
    return value


def _fields(record: Record) -> dict[str, Any]:
    made = {}
    for name, info in type(record).__pydantic_fields__.items():
        # What the schema leaves out when it is missing is left out.
        if name in record.__pydantic_fields_set__ or info.validate_default:
            made[name if info.alias is None else info.alias] = plain(getattr(record, name))
    return made | {name: plain(part) for name, part in (record.__pydantic_extra__ or {}).items()}
