"""Types from JSON Schema: what of it is taken is read here, and everything else is refused at its place.

A schema that says no more than a type of Python's becomes that type, so that prompts are what they would be
with it. Any other one becomes a ``Shape``, which the model is shown as it was given.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from dspex.errors import InvalidSignature
from dspex.program.annotations import refused
from dspex.program.scan import quote
from dspex.program.shapes import MAX_DEPTH, MAX_SCHEMAS, MAX_SHAPES, REFERENCE, Keys, Kind, Shape, relinked

#: Values of one ``enum``.
MAX_ENUM = 1000
_MAX_PATTERN = 1000
#: Patterns of one schema: the largest that their engine takes needs a tenth of a second to be made.
MAX_PATTERNS = 20
_NAME = re.compile(r"[A-Za-z_][\w.-]{0,99}", re.ASCII)
_LOCAL = re.compile(r"#/(?:\$defs|definitions)/([^/~%]+)")
_PLAIN = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
#: The names that JSON Schema has for types.
TYPES = frozenset({*_PLAIN, "array", "object"})
_FORMATS = {
    "date": "datetime.date",
    "date-time": "datetime.datetime",
    "time": "datetime.time",
    "duration": "datetime.timedelta",
    "uuid": "uuid.UUID",
}
# Words about a schema that change nothing of what it takes; a description does not fit into a spelling.
_ABOUT = frozenset({"title", "default", "examples", "$defs", "definitions", "$schema", "discriminator"})


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _is_any(value: object) -> bool:
    return isinstance(value, str | list)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


_SCHEMA = "a JSON Schema, which is a dict"
_KEYWORDS: dict[str, tuple[Callable[[Any], Any], str]] = {
    **dict.fromkeys(("title", "description", "$schema"), (_is_text, "text")),
    **dict.fromkeys(("default", "const"), (lambda _: True, "any value")),
    **dict.fromkeys(("examples", "anyOf", "oneOf", "allOf"), (lambda v: isinstance(v, list), "a list")),
    **dict.fromkeys(
        ("$defs", "definitions", "properties", "discriminator"), (lambda v: isinstance(v, dict), "a dict")
    ),
    "patternProperties": (lambda v: isinstance(v, dict), "a dict"),
    "propertyNames": (lambda v: isinstance(v, dict), _SCHEMA),
    "$ref": (_is_text, "text"),
    "format": (lambda v: _is_text(v) and len(v) <= 100, "text of up to 100 characters"),
    "pattern": (lambda v: _is_text(v) and len(v) <= _MAX_PATTERN, f"text of up to {_MAX_PATTERN} characters"),
    "enum": (lambda v: isinstance(v, list) and 0 < len(v) <= MAX_ENUM, f"a list of 1 to {MAX_ENUM} values"),
    "type": (
        lambda v: TYPES.issuperset([v] if isinstance(v, str) else map(str, v)) if v and _is_any(v) else False,
        f"one of {', '.join(sorted(TYPES))}, or a list of them",
    ),
    "required": (lambda v: isinstance(v, list) and all(map(_is_text, v)), "a list of names"),
    "prefixItems": (lambda v: isinstance(v, list) and len(v) > 0, "a list of schemas"),
    "items": (lambda v: isinstance(v, dict | bool), _SCHEMA),
    "additionalProperties": (lambda v: isinstance(v, dict | bool), f"true, false or {_SCHEMA}"),
    "uniqueItems": (lambda v: isinstance(v, bool), "true or false"),
    **dict.fromkeys(
        ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
        (_is_count, "a whole number"),
    ),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), (_is_number, "a number")),
    "multipleOf": (lambda v: _is_number(v) and v > 0, "a number above 0"),
}
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_ONE = ("items", "additionalProperties", "propertyNames")


def plain(value: Any, path: str) -> Any:
    """A value as JSON would give it back: dicts, lists, text, numbers.

    Raises:
        InvalidSignature: It is no JSON, or too large.
    """
    try:
        encoded = msgspec.json.encode(value)
    except RecursionError:
        raise refused(path, f"it nests deeper than {MAX_DEPTH}, or contains itself") from None
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise refused(path, f"it cannot be written as JSON: {error}") from None
    if len(encoded) > MAX_SCHEMAS:
        raise refused(path, f"a JSON Schema has at most {MAX_SCHEMAS:,} bytes, not {len(encoded):,}")
    try:
        return msgspec.json.decode(encoded)
    except (RecursionError, msgspec.DecodeError):
        raise refused(path, f"it nests deeper than {MAX_DEPTH}") from None


class Schemas:
    """Reads the JSON Schemas of one signature.

    Args:
        keys: Spellings of the signature's types.
    """

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self._shapes: list[Shape | None] = []

    def of(self, schema: dict[str, Any], path: str, name: str, definitions: Mapping[str, Any]) -> str:
        """The type that a schema describes, in canonical spelling.

        Args:
            schema: The schema, as ``plain`` gave it.
            path: Where it stands, for messages.
            name: What its type is called when the schema does not say.
            definitions: Schemas by name that ``$ref`` may name, beside its own.

        Raises:
            InvalidSignature: Something in it is not taken; ``details["path"]`` is the place.
        """
        if _count(schema, "pattern") > MAX_PATTERNS:
            raise refused(path, f"a schema has at most {MAX_PATTERNS} patterns")
        own = {**schema.get("definitions", {}), **schema.get("$defs", {})} if _has_maps(schema) else {}
        scope = _Scope(self, {**definitions, **own}, path)
        _check(schema, path, 0)
        for key, definition in own.items():
            if not _NAME.fullmatch(key):
                raise refused(
                    f"{path}.$defs", f"{key[:80]!a} cannot name a definition; use letters, digits and _.-"
                )
            _check(definition, f"{path}.$defs.{key}", 0)
        spelled = scope.spelled(schema, path) or scope.named(schema, path, name)
        scope.make_definitions()
        scope.refuse_loops()
        return spelled

    @property
    def spellings(self) -> frozenset[str]:
        """How the types that were made are spelled."""
        return frozenset(shape.key for shape in self._shapes if shape is not None)

    def shapes(self, first: int) -> tuple[Shape, ...]:
        """The shapes that were made, for a signature that has ``first`` others before them."""

        def moved(text: str) -> str:
            return encoded(
                relinked(
                    msgspec.json.decode(text), lambda ref: f"{REFERENCE}{first + int(ref[len(REFERENCE) :])}"
                )
            )

        made = [shape for shape in self._shapes if shape is not None]
        return (
            tuple(msgspec.structs.replace(s, schema=moved(s.schema)) for s in made) if first else tuple(made)
        )

    def reserve(self) -> int:
        """A place for a shape that is about to be made."""
        if len(self._shapes) >= MAX_SHAPES:
            raise InvalidSignature(f"a signature has at most {MAX_SHAPES} types of its own")
        self._shapes.append(None)
        return len(self._shapes) - 1

    def put(self, number: int, shape: Shape) -> None:
        """Put a shape into the place that was reserved for it."""
        self._shapes[number] = shape


class _Scope:
    """One field's schema, and the definitions that it may name."""

    def __init__(self, schemas: Schemas, definitions: Mapping[str, Any], path: str) -> None:
        self._schemas = schemas
        self._definitions = definitions
        self._path = path
        self._numbers: dict[str, int] = {}
        self._keys: dict[str, tuple[str, str]] = {}
        self._pending: list[str] = []

    def spelled(self, schema: Any, path: str) -> str | None:
        """The schema as a type of Python's, or the name of a definition; None when it says more than that."""
        said = {name: part for name, part in schema.items() if name not in _ABOUT}
        if path == self._path:
            said.pop("description", None)  # the field has it
        names = set(said)
        kind = said.get("type")
        if names == {"$ref"}:
            return self._reference(said["$ref"], path)[0]
        if names in ({"const"}, {"const", "type"}):
            return _literal([said["const"]])
        if names in ({"enum"}, {"enum", "type"}):
            return _literal(said["enum"])
        if names in ({"anyOf"}, {"oneOf"}):
            (keyword,) = names
            parts = [self.spelled(part, f"{path}.{keyword}[{i}]") for i, part in enumerate(said[keyword])]
            return None if None in parts else " | ".join(filter(None, parts))
        if isinstance(kind, list):
            parts = (
                [self.spelled({**said, "type": one}, path) for one in kind] if names == {"type"} else [None]
            )
            return None if None in parts else " | ".join(filter(None, parts))
        if names == {"type"} and kind in _PLAIN:
            return _PLAIN[kind]
        if names == {"type", "format"} and kind == "string":
            return _FORMATS.get(said["format"])
        if kind == "array":
            return self._array(said, names - {"type"}, path)
        if kind == "object" and names <= {"type", "additionalProperties"}:
            more = said.get("additionalProperties", True)
            if more is False:
                return None
            inner = self.spelled(more, f"{path}.additionalProperties") if isinstance(more, dict) else "Any"
            return inner and f"dict[str, {inner}]"
        return None if names else "Any"

    def _array(self, said: dict[str, Any], names: set[str], path: str) -> str | None:
        if names <= {"items"} and said.get("items") is not False:
            items = said.get("items", True)
            inner = self.spelled(items, f"{path}.items") if isinstance(items, dict) else None
            return inner and f"list[{inner}]" if isinstance(items, dict) else "list"
        count = len(said.get("prefixItems", ()))
        if (
            count
            and said.get("minItems") == said.get("maxItems") == count
            and names <= {"prefixItems", "minItems", "maxItems"}
        ):
            parts = [
                self.spelled(part, f"{path}.prefixItems[{i}]") for i, part in enumerate(said["prefixItems"])
            ]
            return None if None in parts else f"tuple[{', '.join(filter(None, parts))}]"
        return None

    def named(self, schema: dict[str, Any], path: str, name: str) -> str:
        """A shape of its own for the schema; what it is spelled as."""
        number = self._schemas.reserve()
        if not _is_record(schema) and isinstance(schema.get("type"), str):
            name = {**_PLAIN, "array": "list", "object": "dict"}[schema["type"]]
        names = self._key_of(schema, name)
        self._make(number, schema, path, names, defined=False)
        return names[1]

    def _key_of(self, schema: dict[str, Any], name: str) -> tuple[str, str]:
        """The name of a schema's type, and how it is spelled."""
        title = schema.get("title")
        if isinstance(title, str) and title.isidentifier() and _NAME.fullmatch(title):
            name = title
        return name, self._schemas.keys.new(name)

    def _make(
        self, number: int, schema: dict[str, Any], path: str, names: tuple[str, str], *, defined: bool
    ) -> None:
        name, key = names
        kind: Kind = "record" if _is_record(schema) else "value"
        body = {k: part for k, part in schema.items() if k not in ("$defs", "definitions", "$schema")}
        body = relinked(body, lambda reference: f"{REFERENCE}{self._reference(reference, path)[1]}")
        home = f"types.{name}"
        self._schemas.put(number, Shape(key, name, home, kind, encoded(body), exact=False, defined=defined))

    def _reference(self, reference: str, path: str) -> tuple[str, int]:
        found = _LOCAL.fullmatch(reference)
        name = found[1] if found else ""
        if name not in self._definitions:
            known = ", ".join(sorted(self._definitions)[:20]) or "none"
            raise refused(
                path,
                f"$ref names a definition of the same schema as '#/$defs/Name', not {reference[:80]!a}; "
                f"its definitions are {known}",
            )
        if name not in self._numbers:
            # Made later: it may refer to itself, or be the first of a long chain.
            self._numbers[name] = self._schemas.reserve()
            self._keys[name] = self._key_of(self._definitions[name], name)
            self._pending.append(name)
        return self._keys[name][1], self._numbers[name]

    def make_definitions(self) -> None:
        """Make the definitions that were referred to."""
        while self._pending:
            name = self._pending.pop()
            path = f"{self._path}.$defs.{name}"
            self._make(self._numbers[name], self._definitions[name], path, self._keys[name], defined=True)

    def refuse_loops(self) -> None:
        """Refuse definitions that are each other and nothing else: no value would ever fit."""
        for start in self._numbers:
            pending, seen = [self._definitions[start]], set()
            while pending:
                schema = pending.pop()
                for keyword in ("anyOf", "oneOf", "allOf"):
                    pending.extend(schema.get(keyword, ()))
                found = _LOCAL.fullmatch(schema.get("$ref", ""))
                if found and found[1] == start:
                    raise refused(f"{self._path}.$defs.{start}", "it refers to itself and to nothing else")
                if found and found[1] not in seen:
                    seen.add(found[1])
                    pending.append(self._definitions[found[1]])


def encoded(schema: Any) -> str:
    """A schema as text."""
    return msgspec.json.encode(schema).decode()


def _count(schema: Any, keyword: str) -> int:
    parts = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    own = isinstance(schema, dict) and isinstance(schema.get(keyword), str)
    return own + sum(_count(part, keyword) for part in parts)


def _has_maps(schema: dict[str, Any]) -> bool:
    return all(isinstance(schema.get(name, {}), dict) for name in ("$defs", "definitions"))


def _is_record(schema: dict[str, Any]) -> bool:
    return schema.get("type", "object") == "object" and bool(schema.get("properties"))


def _literal(values: list[Any]) -> str | None:
    if not all(value is None or type(value) in (str, int, bool) for value in values):
        return None
    if any(type(value) is int and abs(value) >= 10**18 for value in values):
        return None
    return f"Literal[{', '.join(quote(v) if isinstance(v, str) else repr(v) for v in values)}]"


def _check(schema: Any, path: str, depth: int) -> None:
    """Refuse what is not taken, at its place."""
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        reason = (
            f"nests at most {MAX_DEPTH} deep"
            if depth > MAX_DEPTH
            else f"is a dict, not {type(schema).__name__}"
        )
        raise refused(path, f"a JSON Schema {reason}")
    for name, part in schema.items():
        known = _KEYWORDS.get(name)
        if known is None:
            raise refused(f"{path}.{name[:80]}", "this keyword of JSON Schema is not taken; leave it out")
        if not known[0](part):
            raise refused(f"{path}.{name}", f"it has to be {known[1]}")
    for name in _LISTS:
        for index, part in enumerate(schema.get(name, ())):
            _check(part, f"{path}.{name}[{index}]", depth + 1)
    for name in ("$defs", "definitions"):
        if depth and name in schema:
            raise refused(f"{path}.{name}", "definitions stand at the top of a schema")
    for name in ("properties", "patternProperties"):
        for key, part in schema.get(name, {}).items():
            _check(part, f"{path}.{name}.{key[:80]}", depth + 1)
    for name in _ONE:
        if isinstance(schema.get(name), dict):
            _check(schema[name], f"{path}.{name}", depth + 1)
    _check_together(schema, path)


def _check_together(schema: dict[str, Any], path: str) -> None:
    """Refuse what makes no sense together."""
    if not schema.get("anyOf", [0]) or not schema.get("oneOf", [0]):
        raise refused(path, "a union has to have at least one member")
    if len(schema.get("allOf", [0])) != 1:
        raise refused(f"{path}.allOf", "allOf takes one schema; write the others into it")
    missing = set(schema.get("required", ())) - set(schema.get("properties", ()))
    if missing:
        raise refused(f"{path}.required", f"{sorted(missing)[0][:80]!a} is not among the properties")
    if schema.get("properties") and not {"minProperties", "maxProperties"}.isdisjoint(schema):
        raise refused(path, "minProperties and maxProperties are taken without properties only")
    if "pattern" in schema:
        _check_pattern(schema["pattern"], f"{path}.pattern")


def _check_pattern(pattern: str, path: str) -> None:
    from pydantic_core import SchemaError, SchemaValidator, core_schema

    try:
        # Its engine takes time in proportion to the text, whatever the pattern, and bounds its own size.
        SchemaValidator(core_schema.str_schema(pattern=pattern))
    except SchemaError as error:
        cause = (str(error).strip().splitlines() or [""])[-1]
        raise refused(
            path, f"the pattern cannot be used, as in look-arounds and back-references: {cause[:200]}"
        ) from None
