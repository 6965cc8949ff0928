"""The program that a batch asks: which it is, what goes in, and how its rows are asked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import dspex
from dspex.adapter.named import NamedProgram
from dspex.cli.batch.mapped import Fields
from dspex.program.catalogue import find
from dspex.program.importpath import is_path, require_allowed
from dspex.program.signature import Signature, parse
from dspex.program.spec import make

#: What becomes of a row.
Ended = dspex.Outcome[dspex.Response]


class Asked(NamedTuple):
    """What was named on the command line.

    Attributes:
        module: The module, or the name of a program of the settings.
        signature: Of a module of DSPy's.
        fields: The inputs; None where a worker has to be asked for them.
    """

    module: str
    signature: Signature | None
    fields: Fields | None


def asked(module: str, signature: str | None, settings: dspex.Settings) -> Asked:
    """Check as much of it as can be told without a process.

    Raises:
        DspexError: There is no such module or signature, or the settings do not allow it.
    """
    if is_path(module) or module in settings.programs:
        if is_path(module):
            require_allowed(module, settings.allow_modules)
        if signature is not None:
            raise dspex.InvalidSignature(
                f"{module!r} has its own inputs and takes no signature; leave it out"
            )
        return Asked(module, None, None)
    if signature is None:
        raise dspex.InvalidSignature(f"{find(module).name} needs a signature: 'question -> answer'")
    parsed = parse(signature)
    make(module, parsed)
    required = frozenset(field.name for field in parsed.inputs if field.default is None)
    return Asked(module, parsed, Fields({field.name: field.type for field in parsed.inputs}, required))


def fields(what: Asked, runtime: dspex.Runtime, timeout: float) -> Fields:
    """The inputs, of which a worker tells where nobody else can."""
    if what.fields is not None:
        return what.fields
    if not is_path(what.module):
        program = runtime.adapter(timeout=timeout).program(what.module)
        assert isinstance(program, NamedProgram)
        if program.inputs is None:
            return Fields({}, frozenset(), takes_any=True)
        return Fields(program.inputs, frozenset(program.inputs))
    told = runtime.pool().execute("describe", {"module": what.module}, timeout=timeout)
    types = {name: one["type"] for name, one in told["inputs"].items()}
    required = frozenset(name for name, one in told["inputs"].items() if one["required"])
    return Fields(types, required, told["takes_any"])


def ask(
    what: Asked, runtime: dspex.Runtime, items: Iterable[dict[str, Any]], timeout: float, how: dict[str, Any]
) -> dspex.Outcomes:
    """Ask all rows; each is given as it ends."""
    adapter = runtime.adapter(timeout=timeout)
    if what.fields is None and not is_path(what.module):
        return adapter.program(what.module).batch(items, as_completed=True, **how)
    return adapter.batch(items, module=what.module, signature=what.signature, as_completed=True, **how)
