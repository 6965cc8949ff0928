"""Single values that MessagePack has no form of its own for, and back."""

from __future__ import annotations

import re
import struct
import uuid
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import msgspec
from msgspec.msgpack import Ext

from dspex.wire.codes import (
    COMPLEX,
    DATE,
    DATETIME,
    DECIMAL,
    INT,
    TIME,
    TIMEDELTA,
    UNSENDABLE,
    UNSET,
    UUID,
    Refusal,
    Unsendable,
    WireError,
    pack,
    results,
    type_name,
    unpack,
)

if TYPE_CHECKING:
    from collections.abc import Callable

# Characters of a `repr` that are sent in the place of a value.
_LONGEST_REPR = 500
_MICROSECOND = timedelta(microseconds=1)
_ZONE = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")


def checked(value: Any) -> Any:
    """A plain value, with an integer that MessagePack has no room for in a form of our own.

    Raises:
        Refusal: It is a string that is not text.
    """
    if type(value) is int and not -(2**63) <= value < 2**64:
        return Ext(INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
    if type(value) is str and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            found = f"the lone surrogate U+{ord(value[error.start]):04X} at index {error.start}"
            raise Refusal(
                f"it is a string with {found}, which is not text; replace it first, for example with "
                "`text.encode(errors='replace').decode()`"
            ) from None
    return value


def marker(name: str, text: str | None = None) -> Ext:
    """An ``Unsendable`` as it is sent: its name and, where there is one, its text after a U+0000."""
    parts = [name.replace("\0", "?")] if text is None else [name.replace("\0", "?"), text]
    return Ext(UNSENDABLE, "\0".join(parts).encode(errors="replace"))


def marker_for(value: Any) -> Ext:
    """What is sent in the place of a value that cannot be; its ``repr`` runs only where it was asked for."""
    name = type_name(type(value))
    if not results.get().show_unsendable:
        return marker(name)
    try:
        text = str.__str__(repr(value))
    except Exception as error:  # noqa: BLE001 (whatever the class does there)
        text = f"<its repr failed with {type(error).__name__}>"
    return marker(name, text if len(text) <= _LONGEST_REPR else f"{text[:_LONGEST_REPR]}…")


def _read_marker(payload: memoryview) -> Unsendable:
    name, separator, text = str(payload, "utf-8").partition("\0")
    return Unsendable(name, text if separator else None)


def _zone(value: datetime | time) -> str | list[Any] | None:
    zone = value.tzinfo
    if zone is None:
        return None
    if isinstance(zone, ZoneInfo) and _ZONE.fullmatch(zone.key or ""):
        return str(zone.key)
    # Zones of other libraries (pydantic, dateutil, pytz) travel as the offset they have at this moment.
    offset = value.utcoffset()
    if offset is None:
        raise Refusal(
            f"its time zone is a `{type_name(type(zone))}` without an offset; use `zoneinfo.ZoneInfo` or "
            "`datetime.timezone`"
        )
    name = value.tzname()
    return [offset // _MICROSECOND, None if name == timezone(offset).tzname(None) else name]


def _read_zone(zone: Any) -> ZoneInfo | timezone | None:
    if zone is None:
        return None
    if isinstance(zone, str):
        # A name that could lead out of the folder of zones never gets to `ZoneInfo`.
        if not _ZONE.fullmatch(zone):
            raise WireError("malformed value: the name of a time zone")
        try:
            return ZoneInfo(zone)
        except (OSError, ValueError, KeyError):
            raise WireError(f"the time zone {zone!r} is not known here; install `tzdata`") from None
    offset, name = zone
    offset *= _MICROSECOND
    return timezone(offset) if name is None else timezone(offset, name)


def _write_datetime(value: datetime) -> Ext:
    naive = value.replace(tzinfo=None, fold=0).isoformat()
    return Ext(DATETIME, pack([naive, value.fold, _zone(value)]))


def _read_datetime(payload: memoryview) -> datetime:
    text, fold, zone = unpack(payload)
    return datetime.fromisoformat(text).replace(fold=fold, tzinfo=_read_zone(zone))


def _write_time(value: time) -> Ext:
    naive = value.replace(tzinfo=None, fold=0).isoformat()
    return Ext(TIME, pack([naive, value.fold, _zone(value)]))


def _read_time(payload: memoryview) -> time:
    text, fold, zone = unpack(payload)
    return time.fromisoformat(text).replace(fold=fold, tzinfo=_read_zone(zone))


def _read_timedelta(payload: memoryview) -> timedelta:
    days, seconds, microseconds = unpack(payload)
    return timedelta(days, seconds, microseconds)


#: How to write a value of exactly that type.
WRITERS: dict[type, Callable[[Any], Any]] = {
    bytearray: bytes,
    memoryview: memoryview.tobytes,
    complex: lambda value: Ext(COMPLEX, struct.pack(">dd", value.real, value.imag)),
    datetime: _write_datetime,
    date: lambda value: Ext(DATE, value.isoformat().encode()),
    time: _write_time,
    timedelta: lambda value: Ext(TIMEDELTA, pack([value.days, value.seconds, value.microseconds])),
    Decimal: lambda value: Ext(DECIMAL, str(value).encode()),
    uuid.UUID: lambda value: Ext(UUID, value.bytes),
    msgspec.UnsetType: lambda _: Ext(UNSET, b""),
    Unsendable: lambda value: marker(value.type_name, value.text),
}

#: How to read the payload of an extension back; malformed ones raise anything.
READERS: dict[int, Callable[[memoryview], Any]] = {
    INT: lambda payload: int.from_bytes(payload, "big", signed=True),
    COMPLEX: lambda payload: complex(*struct.unpack(">dd", payload)),
    DATE: lambda payload: date.fromisoformat(str(payload, "ascii")),
    TIME: _read_time,
    DATETIME: _read_datetime,
    TIMEDELTA: _read_timedelta,
    DECIMAL: lambda payload: Decimal(str(payload, "ascii")),
    UUID: lambda payload: uuid.UUID(bytes=bytes(payload)),
    UNSET: lambda _: msgspec.UNSET,
    UNSENDABLE: _read_marker,
}

#: What an instance of a subclass of these is turned into, past whatever the subclass overrides. A class
#: stands before the one that it is a subclass of.
BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, int.__int__),
    (float, float.__float__),
    (complex, complex.__complex__),
    (str, str.__str__),
    (bytes, lambda value: bytes(memoryview(value))),
    (bytearray, lambda value: bytes(memoryview(value))),
    (list, lambda value: list(list.__iter__(value))),
    (dict, lambda value: dict(dict.items(value))),
    (tuple, lambda value: tuple(tuple.__iter__(value))),
    (set, lambda value: set(set.__iter__(value))),
    (frozenset, lambda value: frozenset(frozenset.__iter__(value))),
    (
        datetime,
        lambda v: datetime(
            v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond, v.tzinfo, fold=v.fold
        ),
    ),
    (date, lambda v: date(v.year, v.month, v.day)),
    (time, lambda v: time(v.hour, v.minute, v.second, v.microsecond, v.tzinfo, fold=v.fold)),
    (timedelta, lambda v: timedelta(v.days, v.seconds, v.microseconds)),
    (Decimal, Decimal),
    (uuid.UUID, lambda v: uuid.UUID(int=v.int)),
)
