"""Keys taken out of what is told: providers and programs repeat them in their messages."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, quote_plus

from dspex.errors.root import DspexError

# What is shorter is found in any text, and hides nothing.
_SHORTEST = 4
_INSTEAD = "***"


def from_error(error: DspexError, secrets: Iterable[str]) -> DspexError:
    """The same error with every secret replaced by ``***``, in its message and its details."""
    known = _all_forms(secrets)

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return _replaced(value, known)
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, list):
            return [clean(item) for item in value]
        return value

    if known:
        error.message = clean(error.message)
        error.details = clean(error.details)
        error.args = (error.message,)
    return error


def from_text(text: str, secrets: Iterable[str]) -> str:
    """A text with every secret replaced by ``***``."""
    return _replaced(text, _all_forms(secrets))


def _replaced(text: str, known: Iterable[str]) -> str:
    for form in known:
        text = text.replace(form, _INSTEAD)
    return text


def _all_forms(secrets: Iterable[str]) -> list[str]:
    """The longest first: one may hold another."""
    bare = [secret.strip() for secret in secrets]
    forms = {form for secret in bare if len(secret) >= _SHORTEST for form in _forms(secret)}
    return sorted(forms, key=len, reverse=True)


def _forms(secret: str) -> set[str]:
    """A secret as messages write it: as it is, in a ``repr``, in JSON, or in an address."""
    quoted = (repr(secret), ascii(secret), repr(secret.encode()), json.dumps(secret))
    bare = {text.strip("b")[1:-1] for text in quoted}
    return {
        secret,
        *bare,
        json.dumps(secret, ensure_ascii=False)[1:-1],
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
    }
