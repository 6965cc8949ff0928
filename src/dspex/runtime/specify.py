"""Which program a question names: what workers build, and how a call of it is run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dspex.errors import InvalidOption
from dspex.program import described
from dspex.program.described import Description
from dspex.program.installed import Catalogue
from dspex.program.signature import Signature
from dspex.program.spec import ProgramSpec, check_sandbox, make
from dspex.program.toolspec import CallersTool
from dspex.runtime.brought import look

if TYPE_CHECKING:
    from dspex.runtime.question import Question


@dataclass(frozen=True, slots=True)
class Named:
    """A program that a question names.

    Attributes:
        spec: What workers build it from.
        functions: What a worker may ask of the caller while it runs it, by name.
        shared: Whether it may run beside other calls.
        repeatable: Whether it may run again when its worker was lost.
    """

    spec: ProgramSpec
    functions: Mapping[str, CallersTool]
    shared: bool
    repeatable: bool


def specify(
    question: Question,
    declared: Signature | None,
    users: Description | None,
    allow_modules: Collection[str],
    catalogue: Catalogue | None = None,
) -> Named:
    """The program that a question names.

    Args:
        question: The question; its state has been read.
        declared: The signature, for a module of the catalogue.
        users: What is known of the program, when it is one of the user's own.
        allow_modules: Where tools and rewards by import path may come from.
        catalogue: What of the table of modules is installed; None is all of it.

    Raises:
        Refused: Something in its module, its signature, its tools or its options is wrong.
    """
    if users is not None:
        if question.tools:
            raise InvalidOption(f"{users.module} has its tools in its own code", details={"option": "tools"})
        check_sandbox(users.module, question.sandbox, needed=False)
        spec, shared, repeatable = described.specify(users, question.options)
        return Named(spec, {}, shared, repeatable)
    assert declared is not None
    brought = look(question.module, question.options, question.tools, allow_modules, catalogue)
    spec = make(brought.entry.name, declared, question.options, brought.tools, question.sandbox)
    return Named(spec, brought.functions, brought.shared, brought.repeatable)
