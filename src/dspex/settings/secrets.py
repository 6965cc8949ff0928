"""What must not be shown of a value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dspex.settings.shape import Path
from dspex.types import without_password

_HIDDEN = "***"
_REFERENCE = re.compile(r"(env|file|keyring):.+", re.DOTALL)
# Words of names whose values are secrets; "max_tokens" and "tokens_per_minute" are none.
_SECRET = re.compile(
    r"(^|[_-])(key|token|secret|password|passwd|credentials?|authorization|headers?)($|[_-])", re.IGNORECASE
)


def is_reference(key: object) -> bool:
    """Whether it says where a key is, and is no key itself."""
    return isinstance(key, str) and _REFERENCE.fullmatch(key) is not None


def masked(path: Path, value: Any) -> Any:
    """A value as it may be shown: without keys, and without the passwords of addresses."""
    if path[-1] == "api_key" and (value is None or is_reference(value)):
        return value
    if any(_SECRET.search(name) for name in path[2:]):
        return _HIDDEN
    if isinstance(value, Mapping):
        return {name: masked((*path, str(name)), inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        items = [masked(path, inner) for inner in value]
        return tuple(items) if isinstance(value, tuple) else items
    return without_password(value) if isinstance(value, str) and "://" in value else value
