"""Which modules there are, what each adds to a signature, and what options it has.

A module is found by looking its name up in a table. The caller's text is never an attribute to get
or a path to import.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from dspex.errors import ModuleNotFound
from dspex.program.options import GENERATION, Option
from dspex.program.scan import refusal
from dspex.program.signature import Field, Signature
from dspex.program.suggest import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

_PREFIX = "dspy."


@dataclass(frozen=True, slots=True)
class ModuleEntry:
    """One module of the catalogue.

    Attributes:
        name: Its full name (``"dspy.ChainOfThought"``).
        adds_outputs: Text outputs that it puts before those of the signature.
        options: Its options by name.
        repeatable: Whether running it twice does no more than running it once, so that a call whose
            worker died may simply run again.
        summary: One line for people.
    """

    name: str
    adds_outputs: tuple[str, ...]
    options: Mapping[str, Option]
    repeatable: bool
    summary: str


#: Every module by its full name.
MODULES: Mapping[str, ModuleEntry] = {
    entry.name: entry
    for entry in (
        ModuleEntry(
            "dspy.Predict", (), GENERATION, True, "One request: the inputs go in, the outputs come back."
        ),
        ModuleEntry(
            "dspy.ChainOfThought", ("reasoning",), GENERATION, True, "Predict that reasons before it answers."
        ),
    )
}


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
        InvalidSignature: An input has the name of an output that the module adds; DSPy would lose it.
    """
    position = 0
    for field in signature.inputs:
        if field.name in entry.adds_outputs:
            reason = f"{entry.name} adds an output {field.name!r}; give this input another name"
            raise refusal(signature.text, position, reason)
        position += len(field.text) + len(", ")
    own = {field.name: field for field in signature.outputs}
    added = tuple(own.pop(name, Field(name)) for name in entry.adds_outputs)
    return msgspec.structs.replace(signature, outputs=(*added, *own.values()))
