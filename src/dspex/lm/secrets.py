"""Keys by reference: where they are looked up, and what is said when they are not there."""

from __future__ import annotations

import os

from dspex.errors import InvalidOption, LMNotConfigured


def check(reference: object) -> None:
    """Refuse what is no key and no reference to one.

    Raises:
        InvalidOption: It is neither text nor None, or a kind of reference that is not known.
    """
    if reference is not None and (not isinstance(reference, str) or not reference):
        raise InvalidOption(
            f"api_key has to be a key or a reference such as 'env:OPENAI_API_KEY', not "
            f"{type(reference).__name__}",
            details={"option": "api_key"},
        )
    if isinstance(reference, str) and (reference == "env:" or reference.startswith(("file:", "keyring:"))):
        raise InvalidOption(
            "api_key takes a key or 'env:NAME'; other references are not known",
            details={"option": "api_key"},
        )


def fetch(reference: str) -> str:
    """The key that a reference names; a key itself comes back as it is.

    Raises:
        LMNotConfigured: The variable is not set; ``details["variable"]`` is its name.
    """
    kind, _, name = reference.partition(":")
    if kind != "env":
        return reference
    return from_environment([name])


def from_environment(variables: list[str]) -> str:
    """The value of the first of these variables that is set.

    Raises:
        LMNotConfigured: None is.
    """
    for variable in variables:
        if value := os.environ.get(variable):
            return value
    raise LMNotConfigured(
        f"no API key: set {' or '.join(variables)}, or pass LM(api_key=...)",
        details={"variable": variables[0]},
    )
