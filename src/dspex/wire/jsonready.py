"""Values as JSON has them: for whoever shows them, and for other languages."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from dspex.wire import own


def as_text(value: Any) -> str:
    """An output as text: as it is, or as JSON if it is not text."""
    return value if isinstance(value, str) else msgspec.json.encode(json_ready(value)).decode()


def json_ready(value: Any) -> Any:
    """The value with every date, Decimal, set, record and so on in its JSON form.

    Infinities and NaN, which JSON does not have, become None. Keys that are no text become their JSON.
    """
    try:
        plain = msgspec.to_builtins(value, str_keys=True, enc_hook=_unknown)
    except TypeError:  # a key that is a tuple, None, True
        plain = msgspec.to_builtins(_with_text_keys(value), str_keys=True, enc_hook=_unknown)
    return msgspec.json.decode(msgspec.json.encode(plain))


def _with_text_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {_text_key(key): _with_text_keys(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_with_text_keys(part) for part in value]
    if type(value) in own.CLASSES.values() or own.plain(value) is not None:
        return value
    if isinstance(value, msgspec.Struct):
        return {name: _with_text_keys(getattr(value, name)) for name in value.__struct_fields__}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: _with_text_keys(getattr(value, one.name)) for one in dataclasses.fields(value)}
    return value


def _text_key(key: Any) -> Any:
    if key is None or isinstance(key, bool | tuple | frozenset):
        return msgspec.json.encode(json_ready(key)).decode()
    return key


def _unknown(value: Any) -> Any:
    if (typed := own.plain(value)) is not None:
        return typed  # DSPy's own form of an image cannot be read back
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)
