"""From a value to the wire: finds what MessagePack has no form for, and says where something cannot be sent.

Most values are plain through and through, so each container is first looked over by exact type and, when
nothing in it needs a form of its own, handed to msgspec as it is.
"""

from __future__ import annotations

from pathlib import PurePath
from types import GeneratorType
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.msgpack import Ext

from dspex.wire import arrays, own, records, scalars
from dspex.wire.codes import (
    DICT,
    ENUM,
    FROZENSET,
    MAX_DEPTH,
    OWN,
    PLAIN,
    RECORD,
    SET,
    TUPLE,
    Refusal,
    pack,
    results,
    type_name,
)
from dspex.wire.pieces import pack_in_pieces
from dspex.wire.sizes import Meter

if TYPE_CHECKING:
    from collections.abc import Callable

_SETS: dict[type, int] = {set: SET, frozenset: FROZENSET}
_INSTEAD = "send plain data, a dataclass or a pydantic model instead"
_HINTS: dict[type, str] = {
    PurePath: "send `str(path)` instead",
    GeneratorType: "send a list of what it gives instead",
    range: "send `list(...)` of it instead",
}


def write(value: Any, *, lenient: bool) -> tuple[list[bytes], dict[str, type]]:
    """A value as pieces of bytes, and the classes in it by their name on the wire.

    Args:
        value: The value.
        lenient: Whether an ``Unsendable`` stands in for a part that cannot be sent.

    Raises:
        Refusal: A part cannot be sent, or (lenient) the nesting has no end in reach.
    """
    try:
        try:
            return _write(value, lenient=lenient, careful=False)
        except (OverflowError, UnicodeEncodeError):
            # An integer is too large for MessagePack, or a string is not text. That is rare, so only now
            # is each of them looked at.
            return _write(value, lenient=lenient, careful=True)
    except RecursionError:
        raise Refusal("it is nested too deep for what is left of the stack", whole=True) from None
    except msgspec.EncodeError:
        raise Refusal("a part of it is larger than 4 GiB; send it in pieces", whole=True) from None


def _write(value: Any, *, lenient: bool, careful: bool) -> tuple[list[bytes], dict[str, type]]:
    limit = results.get().max_bytes if lenient else None
    writer = _Writer(lenient=lenient, careful=careful, meter=None if limit is None else Meter(value, limit))
    return pack_in_pieces(writer.each([value], -1, lambda _: "")[0]), writer.types


class _Writer:
    """Turns the parts of one value into what msgspec packs as it is.

    Attributes:
        types: The classes met, by their name on the wire.
    """

    __slots__ = ("_careful", "_in_key", "_lenient", "_meter", "_names", "types")

    def __init__(self, *, lenient: bool, careful: bool, meter: Meter | None) -> None:
        self.types: dict[str, type] = {}
        self._names: dict[int, str] = {}
        self._lenient = lenient
        self._careful = careful
        self._meter = meter
        self._in_key = 0

    def each(self, parts: list[Any], depth: int, step: Callable[[int], str]) -> list[Any]:
        """The same list, each part replaced by what msgspec packs.

        Args:
            parts: A list that nobody else has.
            depth: How many containers are around the one that these are in; -1 for the root.
            step: How the part at an index is called in a path.
        """
        careful = self._careful
        if self._meter is not None:
            self._meter.add(parts)
        for index, part in enumerate(parts):
            try:
                if careful or type(part) not in PLAIN:
                    parts[index] = self._convert(part, depth + 1)
            except Exception as error:
                if isinstance(error, RecursionError) or (
                    not careful and isinstance(error, OverflowError | UnicodeEncodeError)
                ):
                    raise
                refusal = error if isinstance(error, Refusal) else _unreadable(part, error)
                if self._lenient and not self._in_key and not refusal.whole:
                    parts[index] = scalars.marker_for(part)
                    continue
                refusal.steps.append(step(index))
                refusal.parts.append(id(part))
                if refusal is error:
                    raise
                raise refusal from error
        return parts

    def _convert(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind in PLAIN:
            return scalars.checked(value)
        if (scalar := scalars.WRITERS.get(kind)) is not None:
            return scalar(value)
        if depth >= MAX_DEPTH:
            raise Refusal(f"it is nested deeper than {MAX_DEPTH} levels", whole=True)
        if kind is dict:
            return self._dict(value, depth)
        if kind is list:
            return self._list(value, depth)
        if kind is tuple:
            return Ext(TUPLE, pack(self.each(list(value), depth, "[{}]".format)))
        if (code := _SETS.get(kind)) is not None:
            return Ext(code, pack(self._keys(list(value), depth, " (an element)")))
        if records.is_enum(kind):
            return self._member(value, kind, depth)
        if (state := own.read(value) or records.read(value)) is not None:
            return self._record(kind, state, depth)
        if (array := arrays.write(value, kind.__mro__)) is not None:
            return array
        for base, convert in scalars.BASES:
            if base in kind.__mro__:
                return self._convert(convert(value), depth)
        hint = next((hint for base, hint in _HINTS.items() if base in kind.__mro__), _INSTEAD)
        raise Refusal(f"it is a `{type_name(kind)}`; {hint}")

    def _list(self, value: list[Any], depth: int) -> list[Any]:
        if self._careful or not PLAIN.issuperset(map(type, value)):
            return self.each(list(value), depth, "[{}]".format)
        if self._meter is not None:
            self._meter.add(value)
        return value

    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        careful = self._careful
        if not careful:
            for key, part in value.items():
                if type(part) not in PLAIN or type(key) not in PLAIN:
                    break
            else:
                if self._meter is not None:
                    self._meter.add(value.values())
                return value
        names = list(value)
        parts = self.each(list(value.values()), depth, lambda index: _step(names[index]))
        keys = names
        if careful or not PLAIN.issuperset(map(type, names)):
            keys = self._keys(list(names), depth, " (a key)")
            if not PLAIN.issuperset(map(type, keys)):
                return Ext(DICT, pack([keys, parts]))
        return dict(zip(keys, parts, strict=True))

    def _keys(self, keys: list[Any], depth: int, step: str) -> list[Any]:
        self._in_key += 1
        try:
            return self.each(keys, depth, lambda _: step)
        finally:
            self._in_key -= 1

    def _member(self, member: Any, kind: type, depth: int) -> Ext:
        (value,) = self.each([member._value_], depth, lambda _: ".value")
        return Ext(ENUM, pack([self._name(kind), records.member_name(member), value]))

    def _record(self, kind: type, state: records.State | own.Typed, depth: int) -> Ext:
        if isinstance(state, own.Typed):
            return self._typed(state, depth)
        extra, fields_set, private = state.model or (None, [], None)
        groups = (state.fields, extra, private)
        # All parts at once: one more frame a level would be too many for a deep value.
        names = [name for group in groups if group for name in group]
        parts = [part for group in groups if group for part in group.values()]
        left = iter(self.each(parts, depth, lambda index: _step(names[index])))
        fields, extra, private = (group and {name: next(left) for name in group} for group in groups)
        content: list[Any] = [self._name(kind), fields]
        if state.model:
            content += [extra, fields_set, private]
        return Ext(RECORD, pack(content))

    def _typed(self, typed: own.Typed, depth: int) -> Ext:
        if typed.kind is not None:
            # What is DSPy's own here comes back as such.
            self.types.setdefault(own.key(typed.name), typed.kind)
        names = list(typed.fields)
        parts = self.each(list(typed.fields.values()), depth, lambda index: _step(names[index]))
        return Ext(OWN, pack([typed.name, dict(zip(names, parts, strict=True))]))

    def _name(self, kind: type) -> str:
        """The name of a class on the wire; a second class of the same name gets a suffix."""
        name = self._names.get(id(kind))
        if name is None:
            name = base = f"{kind.__module__}:{kind.__qualname__}"
            number = 1
            while name in self.types:
                number += 1
                name = f"{base}#{number}"
            self._names[id(kind)] = name
            self.types[name] = kind
        return name


def _unreadable(part: Any, error: Exception) -> Refusal:
    # What the error says may hold anything, so only its class is told.
    name = type_name(type(part))
    return Refusal(f"it is a `{name}`, and reading it failed with {type(error).__name__}; {_INSTEAD}")


def _step(key: Any) -> str:
    """One key as it stands in a path."""
    if type(key) is str:
        if key.isidentifier() and len(key) <= 60:
            return f".{key}"
        return f"[{key!r}]" if len(key) <= 60 else f"[{key[:60]!r}…]"
    if key is None or type(key) in {bool, float} or (type(key) is int and key.bit_length() <= 64):
        return f"[{key!r}]"
    return f"[a `{type_name(type(key))}`]"
