"""What is kept of a value that is not kept: its type and its size."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from dspex.errors import ResultTooLarge
from dspex.wire.sizes import least_size
from dspex.wire.values import encode_result

_FIELDS = 20


def encoded(values: Mapping[str, Any], largest: int) -> bytes | None:
    """Inputs or outputs as they are stored.

    Returns:
        Their bytes; None when these are more than the largest that is kept, or cannot be written.
    """
    if least_size(dict(values)) > largest:
        return None
    try:
        pieces = encode_result(dict(values))
    except ResultTooLarge:  # nested too deep, or in itself
        return None
    return None if sum(map(len, pieces)) > largest else b"".join(pieces)


def encoded_shape(values: Mapping[str, Any]) -> bytes:
    """The shapes of inputs or outputs as they are stored."""
    return b"".join(encode_result({str(name): shape(value) for name, value in values.items()}))


def shape(value: Any) -> dict[str, Any]:
    """A value's type and size: ``{"type": "str", "length": 12}``, ``{"type": "list", "length": 3}``.

    Of a mapping or a record also how its first fields are shaped, one level deep; of nothing its content.
    """
    told: dict[str, Any] = {"type": type(value).__name__}
    with contextlib.suppress(Exception):  # it may be anybody's
        told["length"] = len(value)
    if isinstance(value, Mapping):
        told["fields"] = {str(name)[:60]: type(part).__name__ for name, part in [*value.items()][:_FIELDS]}
    return told
