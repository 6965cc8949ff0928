"""Where a store is, when only a reference to that was given: ``env:DATABASE_URL``."""

from __future__ import annotations

import os
from pathlib import Path

from dspex.errors import InvalidOption, LMNotConfigured
from dspex.lm.secrets import check_reference, look_up, takes_time


async def resolved(store: str | Path) -> str | Path:
    """What a reference stands for; anything else as it is.

    Args:
        store: What ``store=`` was given.

    Raises:
        InvalidOption: There is nothing where it points to.
    """
    return await _resolved(store) if isinstance(store, str) else store


async def _resolved(store: str) -> str:
    check_reference(store, "store")
    if store.startswith("env:"):
        name = store.removeprefix("env:")
        found = os.environ.get(name, "").strip()
        if not found:
            raise InvalidOption(
                f"store is the variable {name}, and that is not set",
                details={"option": "store", "variable": name},
            )
        return found
    if not takes_time(store):
        return store
    try:
        return await look_up(store)
    except LMNotConfigured as error:
        # They are looked up as keys are, whose errors speak of keys.
        why = error.message.removeprefix("no API key: ")
        raise InvalidOption(f"store is {store!r}: {why}", details={"option": "store"}) from None
