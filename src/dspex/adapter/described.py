"""What ``describe`` says of a signature, a module or a program of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from dspex.program.entries import ModuleEntry
from dspex.runtime.describe import Asked


class DescribedField(msgspec.Struct, frozen=True):
    """A field of a signature, or a parameter of a program.

    Attributes:
        name: Its name.
        type: Its type as a model is shown it; None when it takes any value.
        description: What a model is told about it.
        schema: The JSON Schema of its values; empty for any value.
        required: Whether it has to be given, or the model to answer it.
    """

    name: str
    type: str | None
    description: str | None
    schema: dict[str, Any]
    required: bool


class DescribedOption(msgspec.Struct, frozen=True):
    """An option of a module.

    Attributes:
        name: Its name.
        takes: What it takes, in words.
        default: What it is when it is not given.
        summary: What it is for.
    """

    name: str
    takes: str
    default: Any
    summary: str


class Described(msgspec.Struct, frozen=True):
    """A signature, a module of DSPy's or a program of the user's own.

    Attributes:
        kind: Which of these it is.
        name: The module's full name or the import path; None of a signature that has neither.
        summary: One line for people.
        instructions: The task as a model is told it.
        inputs: What goes in, in order.
        outputs: What comes out, in order; None where nobody knows before it has run.
        options: Options of a module.
        needs: What a module needs besides its inputs: ``"tools"``, ``"sandbox"``, ``"reward"``.
    """

    kind: Literal["signature", "module", "program"]
    name: str | None = None
    summary: str = ""
    instructions: str = ""
    inputs: tuple[DescribedField, ...] = ()
    outputs: tuple[DescribedField, ...] | None = None
    options: tuple[DescribedOption, ...] = ()
    needs: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready data."""
        told: dict[str, Any] = msgspec.to_builtins(self)
        return told


def described(asked: Asked, told: Mapping[str, Any]) -> Described:
    """What was asked for, as it is told: by the table for a module of DSPy's, else by a worker."""
    if asked.entry is not None:
        return _of_module(asked.entry)
    return _of_program(told) if "takes_any" in told else _of_signature(told, asked.path)


def _of_module(entry: ModuleEntry) -> Described:
    """A module of the catalogue."""
    options = tuple(
        DescribedOption(option.name, option.type, option.default, option.summary)
        for option in entry.options.values()
    )
    added = tuple(DescribedField(name, "str", None, {"type": "string"}, True) for name in entry.adds_outputs)
    return Described(
        "module", entry.name, entry.summary, "", (), added, options, tuple(sorted(map(str, entry.needs)))
    )


def _of_signature(told: Mapping[str, Any], path: str | None = None) -> Described:
    """A signature, as a worker described it."""
    summary = told["instructions"].strip().partition("\n")[0]
    return Described(
        "signature", path, summary, told["instructions"], _fields(told["inputs"]), _fields(told["outputs"])
    )


def _of_program(told: Mapping[str, Any]) -> Described:
    """A program of the user's own, as a worker described it."""
    return Described(
        "program", told["module"], told["summary"], told["instructions"], _fields(told["inputs"]), None
    )


def _fields(told: Mapping[str, Any]) -> tuple[DescribedField, ...]:
    return tuple(
        DescribedField(name, said.get("type"), said.get("description"), said["schema"], said["required"])
        for name, said in told.items()
    )
