"""The programs that the settings name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from dspex.errors import InvalidOption
from dspex.program.catalogue import MODULES
from dspex.program.importpath import is_path
from dspex.runtime.drafts import Draft

if TYPE_CHECKING:
    from dspex.settings import Settings

_OF_MODULES = frozenset(name.removeprefix("dspy.").lower() for name in MODULES)


def check(settings: Settings) -> None:
    """Refuse names under which a program could not be found.

    Raises:
        InvalidOption: One is that of a module, or looks like an import path.
    """
    for name in settings.programs:
        if is_path(name) or name.removeprefix("dspy.").lower() in _OF_MODULES or not name.strip():
            wrong = InvalidOption(
                f"a program cannot be called {name!r}, which names a module",
                details={"option": name},
            )
            raise settings.blame(wrong, "program", name)


def draft(settings: Settings, name: str) -> Draft | None:
    """What the settings say of a program; None where they name none of that name."""
    said = settings.programs.get(name)
    if said is None:
        return None
    options = dict(said)
    module, modules = options.pop("module", None), options.pop("modules", None)
    return Draft(modules=modules or module or "dspy.Predict", **options)


def listed(settings: Settings) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """The programs by name, each with what was said of it."""
    yield from settings.programs.items()
