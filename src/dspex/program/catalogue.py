"""Finds a module of the catalogue, and fits a signature to it.

A module is found by looking its name up in a table. The caller's text is never an attribute to get
or a path to import.
"""

from __future__ import annotations

import msgspec

from dspex.errors import ModuleNotFound
from dspex.program.entries import MODULES, ModuleEntry
from dspex.program.scan import refusal
from dspex.program.signature import Field, Signature
from dspex.program.suggest import nearest

__all__ = ["MODULES", "ModuleEntry", "find", "fit"]

_PREFIX = "dspy."


def find(name: str) -> ModuleEntry:
    """The module of that name, with or without its ``dspy.``.

    Raises:
        ModuleNotFound: There is none; the message names the nearest, and ``details["known"]`` all.
    """
    if isinstance(name, str):
        entry = MODULES.get(name) or MODULES.get(_PREFIX + name)
        if entry is not None:
            return entry
    written = name if isinstance(name, str) else type(name).__name__
    known = list(MODULES)
    shown = ascii(written if len(written) <= 80 else written[:80] + "...")
    # Compared without the prefix, which would make every name look half right.
    close = nearest(written.removeprefix(_PREFIX), [module.removeprefix(_PREFIX) for module in known])
    hint = f"did you mean {_PREFIX + close!r}?" if close else f"known are {', '.join(known)}"
    if not close and "." in written.removeprefix(_PREFIX):
        hint += "; a program of your own is named 'package.module:Class'"
    raise ModuleNotFound(
        f"unknown module {shown}; {hint}",
        details={"module": written.encode("utf-8", "replace").decode(), "known": known},
    )


def fit(entry: ModuleEntry, signature: Signature) -> Signature:
    """The signature as the module runs it, with the outputs that it adds.

    An output that the signature has already by that name keeps its type and comes first, as in DSPy.

    Raises:
        InvalidSignature: An input has the name of an output that the module adds, or a field one that the
            module uses itself; DSPy would lose it.
    """
    for field in (*signature.inputs, *signature.outputs):
        if field.name in entry.reserved:
            reason = f"{entry.name} uses the name {field.name!r} itself; give this field another one"
            raise refusal(signature.text, max(0, signature.text.find(field.text)), reason)
    position = 0
    for field in signature.inputs:
        if field.name in entry.adds_outputs:
            reason = f"{entry.name} adds an output {field.name!r}; give this input another name"
            raise refusal(signature.text, position, reason)
        position += len(field.text) + len(", ")
    own = {field.name: field for field in signature.outputs}
    added = tuple(own.pop(name, Field(name)) for name in entry.adds_outputs)
    return msgspec.structs.replace(signature, outputs=(*added, *own.values()))
