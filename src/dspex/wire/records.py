"""Records on the wire: dataclasses, msgspec Structs, pydantic models, and members of enums.

A record is read field by field and rebuilt the same way, without its validation. No code of its class
runs, with two exceptions that have no way around them: ``__post_init__`` of a msgspec Struct, and
``_missing_`` of an enum whose member has no name of its own (a combination of flags).
"""

from __future__ import annotations

import dataclasses
import sys
from enum import Enum
from typing import Any, TypeGuard, cast

import msgspec
from msgspec.structs import force_setattr

from dspex.wire.codes import Refusal, WireError, type_name

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement, so `object.__new__` can make one


class State(msgspec.Struct, frozen=True):
    """What a record holds.

    Attributes:
        fields: Those that are set, by the name of the attribute.
        model: Only of a pydantic model: fields beyond the declared ones, the names of those that were
            given, and private attributes.
    """

    fields: dict[str, Any]
    model: tuple[dict[str, Any] | None, list[str], dict[str, Any] | None] | None = None


def is_enum(kind: type) -> TypeGuard[type[Enum]]:
    """Whether it is an enum; metaclasses of users are not asked."""
    return Enum in kind.__mro__


def _is_model(kind: type) -> bool:
    # A class can only be pydantic's if pydantic is loaded.
    pydantic = sys.modules.get("pydantic.main")
    return pydantic is not None and getattr(pydantic, "BaseModel", None) in kind.__mro__


def _is_struct(kind: type) -> TypeGuard[type[msgspec.Struct]]:
    return msgspec.Struct in kind.__mro__


def _dataclass_fields(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def read(value: Any) -> State | None:
    """What a record holds; None when the value is no record.

    Raises:
        Refusal: It is a record that could not be rebuilt.
    """
    kind = type(value)
    if _is_struct(kind):
        return State({name: getattr(value, name) for name in kind.__struct_fields__})
    is_model = _is_model(kind)
    if not is_model and not hasattr(kind, "__dataclass_fields__"):
        return None
    for base in kind.__mro__:
        if base is not object and not base.__flags__ & _HEAP_TYPE:
            raise Refusal(
                f"it is a `{type_name(kind)}`, a record that is also a `{base.__name__}` and cannot be "
                "rebuilt; send plain data, a dataclass or a pydantic model instead"
            )
    if is_model:
        return _read_model(value, cast("Any", kind))
    # A field without a value (`init=False` and never set) stays without one.
    unset = object()
    fields = {name: getattr(value, name, unset) for name in _dataclass_fields(kind)}
    return State({name: part for name, part in fields.items() if part is not unset})


def _read_model(model: Any, kind: Any) -> State:
    # What is in `__dict__` and no field is a cached property.
    fields = {name: part for name, part in model.__dict__.items() if name in kind.__pydantic_fields__}
    private = getattr(model, "__pydantic_private__", None)
    if private is not None:
        # An attribute without a value is in there as a sentinel of pydantic's.
        undefined = sys.modules["pydantic_core"].PydanticUndefined
        private = {name: part for name, part in private.items() if part is not undefined}
    extra = getattr(model, "__pydantic_extra__", None)
    return State(fields, (extra, sorted(model.__pydantic_fields_set__), private))


def build(kind: type, state: State) -> Any:
    """The record with that state.

    Raises:
        WireError: The state is not one of that class.
    """
    if is_enum(kind):
        raise WireError(f"malformed value: `{type_name(kind)}` is an enum")
    if _is_model(kind):
        return _build_model(cast("Any", kind), state)
    if _is_struct(kind):
        struct = kind(**state.fields)
        if hasattr(kind, "__post_init__"):
            for name, part in state.fields.items():
                force_setattr(struct, name, part)
        return struct
    if not hasattr(kind, "__dataclass_fields__"):
        raise WireError(f"malformed value: `{type_name(kind)}` is not a record")
    _allow_only(kind, state.fields, _dataclass_fields(kind))
    record: Any = object.__new__(kind)
    for name, part in state.fields.items():
        object.__setattr__(record, name, part)
    return record


def _build_model(kind: Any, state: State) -> Any:
    if state.model is None:
        raise WireError(f"malformed value: `{type_name(kind)}` is a pydantic model")
    extra, fields_set, private = state.model
    _allow_only(kind, state.fields, kind.__pydantic_fields__)
    _allow_only(kind, private or {}, kind.__private_attributes__)
    model = object.__new__(kind)
    object.__setattr__(model, "__dict__", state.fields)
    object.__setattr__(model, "__pydantic_fields_set__", set(fields_set))
    if not kind.__pydantic_root_model__:
        object.__setattr__(model, "__pydantic_extra__", extra)
        object.__setattr__(model, "__pydantic_private__", private)
    return model


def _allow_only(kind: type, names: dict[str, Any], known: Any) -> None:
    if not names.keys() <= set(known):
        raise WireError(
            f"malformed value: `{type_name(kind)}` has other attributes here than where it was sent"
        )


def member_name(member: Enum) -> str | None:
    """The name that finds this member again; None when only its value does."""
    name = member._name_
    return name if type(member)._member_map_.get(name) is member else None


def build_member(kind: type, name: Any, value: Any) -> Enum:
    """The member of that name, or with that value when it has no name.

    Raises:
        WireError: There is none.
    """
    if not is_enum(kind):
        raise WireError(f"malformed value: `{type_name(kind)}` is not an enum")
    if name is None:
        return kind(value)
    if name not in kind._member_map_:
        raise WireError(f"malformed value: `{type_name(kind)}` has other members here than where it was sent")
    return kind._member_map_[name]
