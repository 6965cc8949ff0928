"""What the stages of a program are given: the program's inputs, and what the stages before them gave."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from dspex.errors import InvalidSignature
from dspex.program.catalogue import find
from dspex.program.document import Document, StageDocument
from dspex.program.fieldtypes import HISTORY
from dspex.program.importpath import is_path
from dspex.program.signature import Field, Signature, of, type_of

#: What an input is called that has what the stage before gave.
PREVIOUS = "previous_"


def signature_of(document: Document, number: int, gave: Collection[str]) -> Signature | None:
    """The signature that a stage runs with; None for a program of the user's own, which has its own.

    Args:
        document: The program.
        number: Which stage, from 0.
        gave: Names of the outputs of the stage before it.
    """
    stage = document.stages[number]
    if is_path(stage.module):
        return None
    signature = document.signature if stage.signature is None else stage.signature
    assert signature is not None
    if stage.instructions is not None:
        signature = signature.with_instructions(stage.instructions)
    if number and stage.signature is None:
        signature = _with_previous(signature, document, number, gave)
    return signature


def _with_previous(signature: Signature, document: Document, number: int, gave: Collection[str]) -> Signature:
    before = document.stages[number - 1]
    # The types of another signature are described in that one alone.
    declared = {} if before.signature is not None else {field.name: field for field in signature.outputs}
    taken = {field.name for field in (*signature.inputs, *signature.outputs)}
    added = []
    for name in gave:
        field = declared.get(name)
        if PREVIOUS + name in taken:
            continue
        if field is None:
            added.append(Field(PREVIOUS + name, typed=False))
        else:
            added.append(Field(PREVIOUS + name, field.type, field.description, constraints=field.constraints))
    return of(msgspec.structs.replace(signature, inputs=(*signature.inputs, *added)))


def outputs_of(document: Document, number: int) -> list[str] | None:
    """Names of the outputs of a stage, as far as they are known before it runs; None where they are not."""
    stage = document.stages[number]
    if is_path(stage.module):
        return None
    signature = document.signature if stage.signature is None else stage.signature
    assert signature is not None
    names = [field.name for field in signature.outputs]
    return [name for name in find(stage.module).adds_outputs if name not in names] + names


def given(
    names: Collection[str] | None,
    inputs: Mapping[str, Any],
    gave: Mapping[str, Any],
    before: Mapping[str, Any],
) -> dict[str, Any]:
    """The inputs of a stage.

    Args:
        names: What it takes; None takes all that the program was given.
        inputs: What the program was given.
        gave: What the stages before it gave, by name.
        before: What the stage right before it gave.
    """
    known = {**gave, **inputs, **{PREVIOUS + name: value for name, value in before.items()}}
    return dict(known if names is None else {name: known[name] for name in names if name in known})


def check(document: Document) -> None:
    """Refuse stages that are given what nobody gives them.

    Raises:
        InvalidSignature: One has an input that has no source.
    """
    known: set[str] | None = set()
    if document.signature is not None:
        known = {field.name for field in document.signature.inputs}
    before: list[str] | None = []
    for number, stage in enumerate(document.stages):
        if known is not None:
            _check(document, number, stage, known, before or [])
        if number == 0 and document.signature is None:
            known = None  # what a program of the user's own takes and gives is in its code
        before = outputs_of(document, number)
        known = None if known is None or before is None else known | set(before)


def _check(
    document: Document, number: int, stage: StageDocument, known: set[str], before: Collection[str]
) -> None:
    signature = signature_of(document, number, before)
    if signature is None:
        return
    sources = known | {PREVIOUS + name for name in before}
    for field in signature.inputs:
        optional = field.default is not None or type_of(field.type, signature.names).admits_none()
        if field.name not in sources and field.type != HISTORY and not optional:
            raise InvalidSignature(
                f"stage {number + 1} ({stage.module}) has an input {field.name!r} that nobody gives: there "
                f"are {', '.join(sorted(sources))}",
                details={"stage": number + 1, "input": field.name, "known": sorted(sources)},
            )
