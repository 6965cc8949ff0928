"""From the types of the caller's own code to what travels: spellings, and the shapes of his classes."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import functools
import re
import types
import typing
import uuid
from typing import Any

import msgspec

from dspex.errors import InvalidSignature
from dspex.program.fieldtypes import MAX_NESTING, canonical
from dspex.program.scan import quote
from dspex.program.shapes import Keys, Kind, Shape, number_of

_PLAIN = {
    str: "str",
    int: "int",
    float: "float",
    bool: "bool",
    type(None): "None",
    None: "None",
    Any: "Any",
    list: "list",
    dict: "dict",
    tuple: "tuple",
    set: "set",
    frozenset: "frozenset",
    dt.date: "datetime.date",
    dt.datetime: "datetime.datetime",
    dt.time: "datetime.time",
    dt.timedelta: "datetime.timedelta",
    decimal.Decimal: "decimal.Decimal",
    uuid.UUID: "uuid.UUID",
}
_FORMS = (list, dict, tuple, set, frozenset)
_FUNCTIONS = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, functools.partial)
_LITERAL = (str, int, bool, type(None))
# Longer ones would be a page of Python in a prompt.
_LONGEST_NAME = 200


def refused(path: str, reason: str) -> InvalidSignature:
    """The refusal of one place of a signature that is not text."""
    return InvalidSignature(f"{path}: {reason}", details={"path": path})


class Spelling:
    """Spells the types of one signature, and collects the classes in them.

    Args:
        keys: Spellings of the signature's types.
    """

    def __init__(self, keys: Keys) -> None:
        self._new_key = keys.new
        self._classes: dict[str, tuple[Any, str]] = {}
        self._keys: dict[int, str] = {}

    def of(self, annotation: Any, path: str, depth: int = 0) -> str:
        """A type in canonical spelling.

        Args:
            annotation: A type as annotations of Python name them.
            path: Where it stands, for messages.
            depth: How many brackets it already stands in.

        Raises:
            InvalidSignature: It is no type, or one that cannot travel.
        """
        if depth > MAX_NESTING:
            raise refused(path, f"types nest at most {MAX_NESTING} deep")
        plain = _plain(annotation)
        if plain is not None:
            return plain
        origin, args = typing.get_origin(annotation), typing.get_args(annotation)
        if origin in (typing.Union, types.UnionType):
            return " | ".join(self.of(arg, path, depth) for arg in args)
        if origin is typing.Literal and all(type(arg) in _LITERAL for arg in args):
            spelled = (quote(arg) if isinstance(arg, str) else repr(arg) for arg in args)
            return f"Literal[{', '.join(spelled)}]"
        if origin in _FORMS:
            inner = ["..." if arg is ... else self.of(arg, path, depth + 1) for arg in args]
            return f"{origin.__name__}[{', '.join(inner)}]"
        if isinstance(annotation, str | typing.ForwardRef):
            raise refused(
                path, f"the type {str(annotation)[:80]!a} is text that names no class; give the class itself"
            )
        own = _dspys_own(annotation)
        if own is not None:
            return own
        return self._class(annotation, path)

    @property
    def keys(self) -> frozenset[str]:
        """How the classes are spelled."""
        return frozenset(self._classes)

    def has_classes(self, spelled: str) -> bool:
        """Whether a type that was spelled has a class in it."""
        return bool(self._classes) and not self._classes.keys().isdisjoint(re.findall(r"\w+", spelled))

    def _class(self, annotation: Any, path: str) -> str:
        if isinstance(annotation, _FUNCTIONS):
            # pydantic would call it with the value.
            raise refused(path, f"{_name(annotation)[:80]!a} is a function and no type")
        kept = self._keys.get(id(annotation))
        if kept is not None:
            return kept
        key = self._new_key(_name(annotation))
        self._classes[key] = (annotation, path)
        self._keys[id(annotation)] = key
        return key

    def shapes(self) -> tuple[Shape, ...]:
        """The shapes of all classes that were spelled, and of those inside them.

        Raises:
            InvalidSignature: One of them has no JSON Schema.
        """
        return _shapes(self._classes) if self._classes else ()


def _plain(annotation: Any) -> str | None:
    try:
        return _PLAIN.get(annotation)
    except TypeError:  # it has no hash, and so is no type
        return None


def _name(annotation: Any) -> str:
    """The name of a type as DSPy writes it into prompts."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is None:
        return str(getattr(annotation, "__name__", annotation))[:_LONGEST_NAME]
    name = "Union" if origin is types.UnionType else getattr(origin, "__name__", str(origin))
    inner = [f"'{arg}'" if origin is typing.Literal and isinstance(arg, str) else _name(arg) for arg in args]
    return f"{name}[{', '.join(inner)}]"[:_LONGEST_NAME]


def _dspys_own(annotation: Any) -> str | None:
    """The spelling of a type of DSPy's, or of what stands for one here, where the whitelist has it."""
    module = getattr(annotation, "__module__", None)
    if not isinstance(annotation, type) or not isinstance(module, str):
        return None
    if module.partition(".")[0] not in ("dspy", "dspex"):
        return None
    return canonical(f"dspy.{annotation.__name__}")


def _shapes(classes: dict[str, tuple[Any, str]]) -> tuple[Shape, ...]:
    # Only who hands in classes pays for it, and he has it loaded as a rule.
    import pydantic
    from pydantic.json_schema import DefsRef, GenerateJsonSchema

    homes: list[str] = []

    class Numbered(GenerateJsonSchema):
        """Names definitions by numbers, and remembers of which class each is."""

        def get_defs_ref(self, core_mode_ref: Any) -> DefsRef:
            reference = str(core_mode_ref[0])
            if reference not in numbers:
                numbers[reference] = len(homes)
                # As pydantic tells classes apart, without the addresses that are in it.
                homes.append(re.sub(r":\d+", "", reference))
            made = DefsRef(f"t{numbers[reference]}")
            # Else it would look for a shorter name in the end.
            self._prioritized_defsref_choices[made] = [made]
            return made

    numbers: dict[str, int] = {}
    cores = {}
    for key, (annotation, path) in classes.items():
        _refuse_code(annotation, path)
        try:
            adapter = pydantic.TypeAdapter(annotation)
            # Each by itself first, for a message that names its field.
            Numbered().generate_definitions([(key, "validation", adapter.core_schema)])
        except Exception as error:
            raise refused(path, f"{_name(annotation)} has no JSON Schema: {_first_line(error)}") from error
        cores[key] = adapter.core_schema
    numbers.clear()
    homes.clear()
    wanted: Any = [(key, "validation", core) for key, core in cores.items()]
    leaves, aliased = Numbered(by_alias=True).generate_definitions(wanted)
    named_leaves, named = Numbered(by_alias=False).generate_definitions(wanted)

    def text(schema: Any) -> str:
        return msgspec.json.encode(schema, enc_hook=str).decode()

    made: dict[int, Shape] = {}
    for number, home in enumerate(homes):
        definition = f"t{number}"
        if definition not in aliased:  # mentioned, and inlined everywhere
            aliased[definition] = named[definition] = {}  # type: ignore[index]
        body, other = text(aliased[definition]), text(named[definition])  # type: ignore[index]
        name = re.split(r"[.\[]", home.partition("[")[0])[-1]
        kind: Kind = "record" if "properties" in aliased[definition] else "value"  # type: ignore[index]
        made[number] = Shape("", name, home, kind, body, "" if other == body else other)
    extra: list[Shape] = []
    for key, (annotation, _) in classes.items():
        schema, others = leaves[key, "validation"], named_leaves[key, "validation"]
        found = number_of(schema.get("$ref")) if len(schema) == 1 else None
        kind, members = _kind(annotation)
        name = _name(annotation)
        if found is None or made[found].key:
            body, by_name = text(schema), text(others)
            home = f"{getattr(annotation, '__module__', 'types')}.{name}"
            other = "" if by_name == body else by_name
            extra.append(Shape(key, name, home, kind, body, other, members, defined=False))
        else:
            made[found] = msgspec.structs.replace(
                made[found], key=key, name=name, kind=kind, members=members, bends=_bends(annotation)
            )
    return (*(made[number] for number in range(len(homes))), *extra)


def _kind(annotation: Any) -> tuple[Kind, str]:
    import pydantic

    if not isinstance(annotation, type):
        return "value", ""
    if issubclass(annotation, enum.Enum):
        members = [[name, member.value] for name, member in annotation.__members__.items()]
        return "enum", msgspec.json.encode(members).decode()
    if issubclass(annotation, pydantic.RootModel):
        return "root", ""
    if issubclass(annotation, pydantic.BaseModel) or _is_typed_dict(annotation):
        return "record", ""
    return "value", ""


def _is_typed_dict(annotation: type) -> bool:
    # There is one in `typing` and one in `typing_extensions`, which Python before 3.12 needs.
    return hasattr(annotation, "__total__") and hasattr(annotation, "__required_keys__")


def _bends(annotation: Any) -> bool:
    if not isinstance(annotation, type) or getattr(annotation, "__pydantic_config__", None) is not None:
        return False
    return _is_typed_dict(annotation) or hasattr(annotation, "__dataclass_fields__")


def _refuse_code(annotation: Any, path: str) -> None:
    """Refuse what is more than data: a worker would have to run it."""
    if not isinstance(annotation, type):
        return
    name = _name(annotation)
    if any(base.__module__.partition(".")[0] == "dspy" for base in annotation.__mro__):
        raise refused(
            path,
            f"{name} is a type of DSPy's or made from one, which says in code how a model sees it; name the "
            "whole signature by import path ('shop.types:QA')",
        )
    if issubclass(annotation, enum.Enum):
        odd = [member.name for member in annotation if not isinstance(member.value, (*_LITERAL, float))]
        if odd:
            raise refused(path, f"the member {odd[0]} of the enum {name} has a value that JSON has not")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
