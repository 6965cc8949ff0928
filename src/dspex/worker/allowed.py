"""What may be imported on a caller's word: only what the operator allowed."""

from __future__ import annotations

import importlib
from typing import Any

from dspex.errors import NotAllowed
from dspex.program.importpath import is_allowed


def load_allowed(path: str, allow_modules: list[str]) -> Any:
    """Import ``"package.module:Name"`` if the operator allowed it.

    Raises:
        NotAllowed: The module is not among ``allow_modules``, nor below one of them.
    """
    module, _, name = path.partition(":")
    if not is_allowed(module, allow_modules) or not name.isidentifier():
        raise NotAllowed(
            f"{path!r} may not be imported; allow it with Settings(allow_modules=[{module!r}])",
            details={"path": path},
        )
    return getattr(importlib.import_module(module), name)
