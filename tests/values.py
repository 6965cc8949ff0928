"""Values that tests send: records of every kind, and whether a value arrived as the very same."""

from __future__ import annotations

import dataclasses
import enum
import math
from datetime import datetime, time, timedelta, tzinfo
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import numpy as np
import pydantic
import pydantic.dataclasses

from dspex.wire import values
from dspex.wire.values import decode

T = TypeVar("T")


class Color(enum.Enum):
    """A plain enum with an alias."""

    RED = "r"
    BLUE = ("b", 1)
    ROUGE = "r"  # noqa: PIE796


#: An enum whose values cannot be keys.
Odd = enum.Enum("Odd", {"LIST": [1, [2]], "SET": {3}})


class Level(enum.IntEnum):
    """An enum whose members are integers."""

    LOW = 1
    HIGH = 2**70


class Mood(enum.StrEnum):
    """An enum whose members are strings."""

    GOOD = "good"
    BAD = "bad"


class Perm(enum.Flag):
    """Flags that combine."""

    R = 4
    W = 2
    X = 1


class Bits(enum.IntFlag):
    """Flags that keep bits they do not know."""

    ONE = 1
    TWO = 2


@dataclasses.dataclass(frozen=True)
class Point:
    """Can be a key."""

    x: Any
    y: Any = 0


@dataclasses.dataclass(frozen=True)
class Solid(Point):
    """Inherits fields."""

    z: Any = 0


@dataclasses.dataclass(slots=True)
class Slotted:
    """Has no ``__dict__``."""

    id: Any
    error: Any = None
    type: Any = None


@dataclasses.dataclass
class Late:
    """Has fields that its constructor does not take, and one that may have no value."""

    given: Any
    source: dataclasses.InitVar[int] = 5
    doubled: int = dataclasses.field(init=False)
    unset: int = dataclasses.field(init=False)

    def __post_init__(self, source: int) -> None:
        self.doubled = 2 * source


class Tagged(msgspec.Struct, frozen=True, tag="thing", rename="camel"):
    """A Struct that is encoded differently by msgspec itself."""

    long_name: Any
    maybe: Any = msgspec.UNSET


class Ordered(msgspec.Struct, kw_only=True):
    """A Struct that changes what it is given."""

    count: int

    def __post_init__(self) -> None:
        self.count += 1


class Model(pydantic.BaseModel):
    """A model that keeps more than its fields."""

    model_config = pydantic.ConfigDict(extra="allow")

    name: Any = pydantic.Field(alias="theName")
    child: Model | None = None
    tags: Any = None
    _seen: int = 0
    _never: int = pydantic.PrivateAttr()

    @cached_property
    def shout(self) -> str:
        """A value that is kept in ``__dict__`` and is no field."""
        return str(self.name).upper()


def model(name: Any, **more: Any) -> Model:
    """A ``Model`` whose values are taken as they are."""
    return Model.model_validate({"theName": name, **more})


class FrozenModel(pydantic.BaseModel):
    """A model that can be a key."""

    model_config = pydantic.ConfigDict(frozen=True)

    number: int = 1
    other: int = 2


class Box(pydantic.BaseModel, Generic[T]):
    """A generic model."""

    content: T


class Numbers(pydantic.RootModel[list[int]]):
    """A model that is one value."""


class Strict(pydantic.BaseModel):
    """A model whose own code must not run on the way."""

    value: int
    post: bool = False

    @pydantic.field_validator("value")
    @classmethod
    def _small(cls, value: int) -> int:
        if value > 10:
            raise ValueError("too large")
        return value

    def model_post_init(self, context: Any, /) -> None:
        """Leaves a trace."""
        self.post = True


@pydantic.dataclasses.dataclass
class Checked:
    """A dataclass of pydantic's."""

    n: int
    s: str = "s"


class Pair(NamedTuple):
    """A named tuple."""

    a: int
    b: int


class Offset(tzinfo):
    """A time zone of some library."""

    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta(hours=2)

    def tzname(self, _: datetime | None) -> str:
        return "SOME"

    def dst(self, _: datetime | None) -> None:
        return None


class Hostile:
    """Fails whatever is asked of it."""

    def __repr__(self) -> str:
        raise AssertionError("somebody asked for a repr")

    __str__ = __repr__


ALL_TYPES: dict[str, type] = {
    f"{kind.__module__}:{kind.__qualname__}": kind
    for kind in (
        *(Color, Level, Mood, Perm, Bits, Point, Solid, Slotted, Late, Tagged, Ordered),
        *(Model, FrozenModel, Box, Box[int], Numbers, Strict, Checked),
    )
}


def form(value: Any) -> Any:
    """A value as something that is equal only to the form of the very same value, NaN included."""
    kind = type(value)
    if kind is float:
        return kind, "nan" if math.isnan(value) else value.hex()
    if kind is int:
        return kind, hex(value)
    if kind is complex:
        return kind, form(value.real), form(value.imag)
    if kind in {list, tuple}:
        return kind, [form(item) for item in value]
    if kind in {set, frozenset}:
        return kind, sorted((form(item) for item in value), key=repr)
    if kind is dict:
        return kind, [(form(key), form(item)) for key, item in value.items()]
    if kind is np.ndarray:
        return kind, value.dtype.str, value.shape, value.flags.f_contiguous, repr(value.tolist())
    if isinstance(value, np.generic):
        return kind, value.dtype.str, repr(value)
    if kind in {datetime, time}:
        return kind, repr(value)
    if isinstance(value, enum.Enum):
        return kind, id(value)
    if isinstance(value, pydantic.BaseModel):
        private = {
            name: item
            for name, item in (value.__pydantic_private__ or {}).items()
            if "Undefined" not in type(item).__name__
        }
        fields = {name: item for name, item in value.__dict__.items() if name in kind.model_fields}
        return kind, form(fields), form(value.__pydantic_extra__), form(value.model_fields_set), form(private)
    if isinstance(value, msgspec.Struct):
        return kind, [(name, form(getattr(value, name))) for name in value.__struct_fields__]
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return kind, [(name, form(getattr(value, name, "unset"))) for name in names]
    return kind, str(value), getattr(value, "language", None)


class Encoded(NamedTuple):
    """A value as it is sent, in one piece, and the classes in it."""

    data: bytes
    types: dict[str, type]


def encode(value: Any, *, where: str = "value") -> Encoded:
    """What a caller sends, in one piece."""
    pieces, types = values.encode(value, where=where)
    return Encoded(b"".join(pieces), types)


def encode_result(value: Any) -> bytes:
    """What a worker answers, in one piece."""
    return b"".join(values.encode_result(value))


def travel(value: Any) -> Any:
    """The value after it was sent, where its classes are known."""
    encoded = encode(value)
    return decode(encoded.data, encoded.types)


def arrives(value: Any) -> bool:
    """Whether it comes out as the very same value."""
    return bool(form(travel(value)) == form(value))
