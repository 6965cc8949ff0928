"""From the wire to a value: builds what the extensions stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from dspex.wire import arrays, own, records, scalars
from dspex.wire.codes import (
    DICT,
    ENUM,
    FROZENSET,
    OWN,
    RECORD,
    SET,
    TUPLE,
    WireError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_STRING = frozenset({str})
_READERS: dict[int, Callable[[memoryview], Any]] = {
    **scalars.READERS,
    **arrays.READERS,
}


class Reader:
    """Builds records and members of enums of these classes, and of no others.

    Args:
        types: The classes, by their name on the wire.
    """

    __slots__ = ("_types",)

    def __init__(self, types: Mapping[str, type]) -> None:
        self._types = types

    def build(self, code: int, payload: memoryview) -> Any:
        """What one extension stands for; malformed ones raise anything."""
        if (read := _READERS.get(code)) is not None:
            return read(payload)
        # The way down is this one frame a level, so that a deep value fits on a stack in use.
        content = msgspec.msgpack.decode(payload, ext_hook=self.build)
        if type(content) is not list:
            raise WireError("malformed value: the payload of an extension")
        if code == TUPLE:
            return tuple(content)
        if code == SET:
            return _set(content)
        if code == FROZENSET:
            return frozenset(_set(content))
        if code == DICT:
            return _dict(*content)
        if code == RECORD:
            return self._record(*content)
        if code == ENUM:
            return self._member(*content)
        if code == OWN:
            name, fields = content
            return own.build(name, fields, self._types)
        raise WireError(f"malformed value: no extension has the code {code}")

    def _member(self, kind_name: Any, name: Any, value: Any) -> Any:
        kind = self._kind(kind_name)
        return value if kind is None else records.build_member(kind, name, value)

    def _record(self, kind_name: Any, fields: Any, *model: Any) -> Any:
        kind = self._kind(kind_name)
        extra, fields_set, private = model or (None, [], None)
        for attributes in (fields, extra, private):
            if attributes is not None and not _is_attributes(attributes):
                raise WireError("malformed value: the fields of a record")
        if kind is None:
            return fields | extra if extra else fields
        state = records.State(fields, (extra, fields_set, private) if model else None)
        return records.build(kind, state)

    def _kind(self, name: Any) -> type | None:
        if type(name) is not str:
            raise WireError("malformed value: the name of a class")
        return self._types.get(name)


def _is_attributes(content: Any) -> bool:
    return type(content) is dict and _STRING.issuperset(map(type, content))


def _hashable(key: Any) -> Any:
    """A key as it is or, where a record of an unknown class is in it, in a form that can be a key."""
    try:
        hash(key)
    except TypeError:
        if type(key) is dict:
            return tuple((name, _hashable(part)) for name, part in key.items())
        if type(key) in {list, tuple}:
            return tuple(map(_hashable, key))
        if type(key) is set:
            return frozenset(key)
        raise
    return key


def _set(elements: list[Any]) -> set[Any]:
    found = set(map(_hashable, elements))
    if len(found) != len(elements):
        raise WireError("two elements of a set are equal once their own classes are gone")
    return found


def _dict(keys: Any, parts: Any) -> dict[Any, Any]:
    found = dict(zip(map(_hashable, keys), parts, strict=True))
    if len(found) != len(keys):
        raise WireError("two keys of a dict are equal once their own classes are gone")
    return found
