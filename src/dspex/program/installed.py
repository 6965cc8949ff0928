"""What the installed DSPy has of the table of modules, as workers found it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import msgspec

from dspex.errors import ModuleNotFound
from dspex.program.entries import MODULES, ModuleEntry


class Parameter(msgspec.Struct, frozen=True, array_like=True):
    """A parameter of a module's constructor.

    Attributes:
        name: Its name.
        type: Its annotation as it is written; empty without one.
        required: Whether it has no default.
        default: Its default, if that is plain; else None.
    """

    name: str
    type: str = ""
    required: bool = True
    default: bool | int | float | str | None = None


class Found(msgspec.Struct, frozen=True, array_like=True):
    """A module of the table, as it is installed.

    Attributes:
        parameters: What its constructor takes.
        takes_any: Whether that takes anything else by name (``**config``).
        status: ``"experimental"``, ``"leaving"``, or empty.
        awaits: Whether DSPy gives it an asynchronous form of its own.
    """

    parameters: tuple[Parameter, ...]
    takes_any: bool
    status: Literal["", "experimental", "leaving"]
    awaits: bool


class Installed(msgspec.Struct, frozen=True, array_like=True):
    """What there is in the process that workers are forked from.

    Attributes:
        dspy: DSPy's version.
        modules: The table's modules that DSPy has and workers can build, by full name.
        sandboxes: Which sandboxes for generated code are installed (``"monty"``, ``"deno"``).
    """

    dspy: str
    modules: dict[str, Found]
    sandboxes: tuple[str, ...] = ()


class Catalogue:
    """The table of modules, and once a worker is ready, what of it is installed. From any thread."""

    def __init__(self) -> None:
        self.installed: Installed | None = None
        self._encoded = b""

    def learn(self, encoded: msgspec.Raw) -> None:
        """Take note of what a worker said when it was ready."""
        said = bytes(encoded)
        if said not in {self._encoded, b"\xc0"}:  # each worker says the same
            self.installed = msgspec.msgpack.decode(said, type=Installed)
            self._encoded = said

    def require(self, entry: ModuleEntry) -> None:
        """Refuse a module that this DSPy does not have.

        Raises:
            ModuleNotFound: It does not.
        """
        if self.installed is not None and entry.name not in self.installed.modules:
            known = list(self.installed.modules)
            raise ModuleNotFound(
                f"the installed DSPy {self.installed.dspy} lacks {entry.name}; it has {', '.join(known)}",
                details={"module": entry.name, "known": known},
            )

    @property
    def modules(self) -> Mapping[str, ModuleEntry]:
        """What can be named, with the defaults and the status that the installed DSPy has."""
        if self.installed is None:
            return MODULES
        return {name: merged(MODULES[name], found) for name, found in self.installed.modules.items()}


def merged(entry: ModuleEntry, found: Found) -> ModuleEntry:
    """An entry of the table with what DSPy itself says."""
    defaults: dict[str, Any] = {each.name: each.default for each in found.parameters if not each.required}
    own = {
        name: replace(option, default=defaults.get(option.parameter or name, option.default))
        for name, option in entry.own.items()
    }
    return replace(entry, own=own, status=found.status)
