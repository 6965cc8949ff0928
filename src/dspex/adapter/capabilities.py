"""What an adapter can do."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import msgspec

from dspex.program.entries import ModuleEntry
from dspex.program.installed import Catalogue


class Capabilities(msgspec.Struct, frozen=True):
    """What can be done with an adapter.

    Attributes:
        streaming: Whether answers can be had as they are made.
        batch: Whether many inputs can be run by one call.
        structured_output: Whether outputs can have types, and models that enforce schemas are sent one.
        tools: Whether a module can call functions of the caller's.
        sandbox: The sandboxes for generated code that are installed.
        modules: The modules that calls can name, each as ``facts`` has it.
    """

    streaming: bool
    batch: bool
    structured_output: bool
    tools: bool
    sandbox: tuple[str, ...]
    modules: dict[str, dict[str, Any]]


def found(catalogue: Catalogue | None) -> Capabilities:
    """What can be done, as far as is known.

    Args:
        catalogue: What workers have told; None where there are none.
    """
    known = catalogue or Catalogue()
    installed = known.installed
    return Capabilities(
        streaming=True,
        batch=True,
        structured_output=True,
        tools=any("tools" in entry.needs for entry in known.modules.values()),
        sandbox=_sandboxes() if installed is None else installed.sandboxes,
        modules={name: facts(entry) for name, entry in known.modules.items()},
    )


def _sandboxes() -> tuple[str, ...]:
    packages = {"monty": "pydantic_monty", "deno": "deno"}
    return tuple(name for name, package in packages.items() if find_spec(package) is not None)


def facts(entry: ModuleEntry) -> dict[str, Any]:
    """A module as JSON-ready data."""
    return {
        "name": entry.name,
        "summary": entry.summary,
        "adds_outputs": list(entry.adds_outputs),
        "needs": sorted(entry.needs),
        "optional": sorted(entry.optional),
        "shared": entry.shared,
        "repeatable": entry.repeatable,
        "status": entry.status,
        "options": [
            {
                "name": option.name,
                "type": option.type,
                "default": option.default,
                "required": option.required,
                "summary": option.summary,
            }
            for option in entry.options.values()
        ],
    }
