"""Programs of the user's own are named by import path: ``"shop.support:Router"``.

Here such a name is only read and compared. Nothing is imported: that is done in a worker, for what the
operator allowed.
"""

from __future__ import annotations

import keyword
import unicodedata
from typing import TYPE_CHECKING, Any

from dspex.errors import ModuleNotFound, NotAllowed
from dspex.program import catalogue
from dspex.program.classes import named

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Characters of a whole path, at most.
_LONGEST = 500


def is_path(module: object) -> bool:
    """Whether it is meant as an import path: names of the catalogue have no colon."""
    return isinstance(module, str) and ":" in module


def name_of(module: str | type[Any]) -> str:
    """The full name of a module: one of the catalogue, or an import path as it is.

    Raises:
        ModuleNotFound: It is neither.
    """
    name = named(module)
    if not is_path(name):
        return catalogue.find(name).name
    split(name)
    return name


def split(path: str) -> tuple[str, str]:
    """The module and the class that a path names.

    Raises:
        ModuleNotFound: It is no such path.
    """
    module, _, name = path.partition(":")
    reason = None
    if len(path) > _LONGEST:
        reason = f"an import path has at most {_LONGEST} characters"
    elif not all(_is_name(part) for part in module.split(".")):
        reason = f"before the colon {module!a} is not the name of a module that can be imported"
    elif not _is_name(name):
        reason = f"after the colon {name!a} is not the name of a class"
    elif name.startswith("_"):
        reason = f"the name {name!a} begins with an underscore, so it is its module's own affair"
    if reason is not None:
        raise ModuleNotFound(
            f"{shown(path)} names no program: {reason}; write it as 'package.module:Class'",
            details={"module": path[:_LONGEST].encode("utf-8", "replace").decode()},
        )
    return module, name


def is_allowed(module: str, allow_modules: Iterable[str]) -> bool:
    """Whether a module is one of the allowed ones, or below one."""
    return any(module == root or module.startswith(f"{root}.") for root in allow_modules)


def require_allowed(path: str, allow_modules: Iterable[str]) -> None:
    """Refuse a path that the operator did not allow.

    Raises:
        ModuleNotFound: It is no path.
        NotAllowed: Its module is not among ``allow_modules``, nor below one of them.
    """
    module, _ = split(path)
    if not is_allowed(module, allow_modules):
        raise not_allowed(path, module)


def not_allowed(path: str, module: str) -> NotAllowed:
    """The refusal of a path, with the setting that would allow it."""
    return NotAllowed(
        f"{path!a} may not be imported; whoever runs this allows it with "
        f"Settings(allow_modules=[{module!a}])",
        details={"path": path},
    )


def shown(path: str) -> str:
    """A path as messages show it, cut to a readable length."""
    return ascii(path if len(path) <= 80 else path[:80] + "...")


def _is_name(text: str) -> bool:
    return (
        text.isidentifier()
        and not keyword.iskeyword(text)
        # Python reads a name in its normal form: two that differ here would be one there.
        and unicodedata.is_normalized("NFKC", text)
    )
