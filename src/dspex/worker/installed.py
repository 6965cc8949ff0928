"""What the installed DSPy has of the table of modules: found out once, before a zygote forks."""

from __future__ import annotations

import functools
import inspect
from importlib.util import find_spec
from typing import Any, Literal

import dspy
import msgspec

from dspex.program.entries import MODULES
from dspex.program.installed import Found, Installed, Parameter
from dspex.worker.build import can_build

_SANDBOXES = {"monty": "pydantic_monty", "deno": "deno"}
_EXPERIMENTAL, _LEAVING = "experimental:", "deprecated"


@functools.cache
def encoded() -> msgspec.Raw:
    """``installed()`` as it travels."""
    return msgspec.Raw(msgspec.msgpack.encode(installed()))


def installed() -> Installed:
    """What there is. The names are the table's own."""
    found = {}
    for name in MODULES:
        kind = vars(dspy).get(name.removeprefix("dspy."))
        if isinstance(kind, type) and issubclass(kind, dspy.Module) and can_build(name):
            found[name] = look_at(kind)
    sandboxes = tuple(name for name, package in _SANDBOXES.items() if find_spec(package) is not None)
    return Installed(dspy.__version__, found, sandboxes)


def look_at(kind: Any) -> Found:
    """A module's constructor and what its documentation says of its future."""
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    said = (inspect.getdoc(kind) or "").lower()
    status: Literal["", "experimental", "leaving"]
    status = "leaving" if _LEAVING in said else "experimental" if _EXPERIMENTAL in said else ""
    return Found(
        tuple(_parameter(each) for each in parameters if each.kind is not each.VAR_KEYWORD),
        any(each.kind is each.VAR_KEYWORD for each in parameters),
        status,
        "aforward" in vars(kind),
    )


def _parameter(parameter: inspect.Parameter) -> Parameter:
    required = parameter.default is parameter.empty
    plain = isinstance(parameter.default, bool | int | float | str)
    annotation = parameter.annotation
    written = "" if annotation is parameter.empty else inspect.formatannotation(annotation)
    return Parameter(parameter.name, written, required, parameter.default if plain else None)
