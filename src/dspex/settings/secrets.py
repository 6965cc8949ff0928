"""What is a secret: what must not stand in a file, and what must not be shown of a value."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from dspex.settings.shape import Path
from dspex.types import without_password

_HIDDEN = "***"
_REFERENCE = re.compile(r"(env|file):.+|keyring:[^/]+/.+", re.DOTALL)
# Words of names whose values are secrets; "max_tokens" and "tokens_per_minute" are none.
_SECRET = re.compile(
    r"^(code|sig)$"
    r"|(^|[_-])((api|access|account|app|auth|client|secret|shared|subscription)?(key|token|secret|password)"
    r"|passwd|credentials?|auth|authorization|bearer|cookie)($|[_-])",
    re.IGNORECASE,
)
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
STORE = ("store",)
_USER = re.compile(r"://(.*)@", re.DOTALL)
_QUERY = re.compile(r"\?.*", re.DOTALL)
#: Options of a profile that are a secret.
CREDENTIALS = frozenset(
    {"api_key", "aws_access_key_id", "aws_secret_access_key", "aws_session_token", "vertex_credentials"}
)
# Names of options that hold names with values, of which any may be a secret.
_MAPPING = re.compile(r"(^|[_-])(headers?|query)$", re.IGNORECASE)


def is_reference(key: object) -> bool:
    """Whether it says where a key is, and is no key itself."""
    return isinstance(key, str) and _REFERENCE.fullmatch(key) is not None


def variables_in(profile: Mapping[str, Any]) -> Iterator[str]:
    """The variables to which a profile refers, for its key and for other options."""
    for value in profile.values():
        if isinstance(value, Mapping):
            yield from variables_in(value)
        elif is_reference(value) and value.startswith("env:"):
            yield value.removeprefix("env:")


def _is_secret(name: str) -> bool:
    return _SECRET.search(_HUMP.sub("_", name)) is not None


def literals(path: Path, value: Any) -> Iterator[Path]:
    """The secrets that an option of a profile, or the URL of the store, holds and does not refer to."""
    name = path[-1]
    if path == STORE:
        if _has_password(value):
            yield path
    elif _MAPPING.search(name) and isinstance(value, Mapping):
        for inner, text in value.items():
            if _is_secret(inner) and not is_reference(text):
                yield (*path, inner)
    elif name in CREDENTIALS and not is_reference(value) and not _is_path(name, value):
        yield path


def _without(found: re.Match[str]) -> str:
    name, colon, _ = found[1].partition(":")
    return f"://{name}{colon}{_HIDDEN if colon else ''}@"


def _has_password(url: str) -> bool:
    found = _USER.search(url)
    return (found is not None and ":" in found[1]) or re.search(r"[?&]password=", url) is not None


def _is_path(name: str, value: str) -> bool:
    # Google's credentials are JSON, or the path of their file, which is no secret.
    return name == "vertex_credentials" and not value.lstrip().startswith("{")


def masked(path: Path, value: Any) -> Any:
    """A value as it may be shown: without keys, and without the passwords and queries of addresses."""
    if path == STORE and isinstance(value, str):
        # To the last @: nobody has to write a slash in a password as %2F.
        return _QUERY.sub(f"?{_HIDDEN}", _USER.sub(_without, value)) if "://" in value else value
    if path[-1] == "api_key" and (value is None or is_reference(value)):
        return value
    if any(_is_secret(name) or _MAPPING.search(name) for name in path[2:]):
        return _HIDDEN
    if isinstance(value, Mapping):
        return {name: masked((*path, str(name)), inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        items = [masked(path, inner) for inner in value]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, str) and "://" in value:
        return _QUERY.sub(f"?{_HIDDEN}", without_password(value))
    return value
