"""What may be imported on a caller's word: only what the operator allowed."""

from __future__ import annotations

import importlib
from typing import Any

from dspex.errors import ModuleNotFound, NotAllowed
from dspex.program.importpath import is_allowed
from dspex.worker import faults


def load_allowed(path: str, allow_modules: list[str]) -> Any:
    """Import ``"package.module:Name"`` if the operator allowed it.

    Raises:
        NotAllowed: The module is not among ``allow_modules``, nor below one of them.
        ModuleNotFound: There is no such module, or it has no such name.
        PythonError: Its import failed.
    """
    module, _, name = path.partition(":")
    if not is_allowed(module, allow_modules) or not name.isidentifier():
        raise NotAllowed(
            f"{path!r} may not be imported; allow it with Settings(allow_modules=[{module!r}])",
            details={"path": path},
        )
    try:
        found = getattr(importlib.import_module(module), name, None)
    except BaseException as error:
        raise faults.python_error(f"importing {module!r} failed: ", error) from error
    if found is None:
        raise ModuleNotFound(f"the module {module} has no {name!r}", details={"module": path})
    return found
