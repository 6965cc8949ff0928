"""Which program a question names: what workers build, and how a call of it is run."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dspex.errors import InvalidOption
from dspex.program import catalogue, described
from dspex.program.catalogue import ModuleEntry
from dspex.program.described import Description
from dspex.program.importpath import require_allowed
from dspex.program.signature import Signature
from dspex.program.spec import ProgramSpec, make
from dspex.program.toolspec import CallersTool, look_at

if TYPE_CHECKING:
    from dspex.runtime.call import Question


@dataclass(frozen=True, slots=True)
class Named:
    """A program that a question names.

    Attributes:
        spec: What workers build it from.
        tools: What it may call.
        shared: Whether it may run beside other calls.
        repeatable: Whether it may run again when its worker was lost.
    """

    spec: ProgramSpec
    tools: tuple[CallersTool, ...]
    shared: bool
    repeatable: bool


def specify(
    question: Question,
    declared: Signature | None,
    users: Description | None,
    allow_modules: Collection[str],
) -> Named:
    """The program that a question names.

    Args:
        question: The question; its state has been read.
        declared: The signature, for a module of the catalogue.
        users: What is known of the program, when it is one of the user's own.
        allow_modules: Where tools by import path may come from.

    Raises:
        Refused: Something in its module, its signature, its tools or its options is wrong.
    """
    if users is not None:
        if question.tools:
            raise InvalidOption(f"{users.module} has its tools in its own code", details={"option": "tools"})
        spec, shared, repeatable = described.specify(users, question.options)
        return Named(spec, (), shared, repeatable)
    assert declared is not None
    entry = catalogue.find(question.module)
    tools = _tools(question, entry, allow_modules)
    spec = make(entry.name, declared, question.options, tuple(tool.spec for tool in tools))
    # What a worker loads it runs alone, so that it can be ended for it.
    loaded = [tool.spec for tool in tools if tool.spec.path is not None]
    repeatable = entry.repeatable and all(tool.idempotent for tool in loaded)
    return Named(spec, tools, entry.shared and not loaded, repeatable)


def _tools(question: Question, entry: ModuleEntry, allow_modules: Collection[str]) -> tuple[CallersTool, ...]:
    if question.tools is None:
        if "tools" in entry.needs:
            raise InvalidOption(
                f"{entry.name} needs tools=[...], the functions that the model may have called",
                details={"module": entry.name, "option": "tools"},
            )
        return ()
    tools = look_at(question.tools, entry.name)
    for tool in tools:
        if tool.spec.path is not None:
            require_allowed(tool.spec.path, allow_modules)
    return tools
