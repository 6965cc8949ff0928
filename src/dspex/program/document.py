"""A program as it is stored: its stages in order, all of it data that any process can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from dspex.errors import InvalidOption
from dspex.program.importpath import is_path
from dspex.program.signature import Signature
from dspex.program.toolspec import look_at
from dspex.tools import MCPServer
from dspex.types import LMReference

#: The form in which documents are written.
FORMAT = 1


@dataclass(frozen=True)
class Stage:
    """One module of a program that has several.

    ``create_program(..., modules=[Stage("dspy.ChainOfThought"), Stage("dspy.Predict", lm="fast")])``

    Attributes:
        module: Name of a DSPy module, or the import path of a program of your own, or its class.
        signature: Its own, in any form that ``adapter.generate`` takes; its inputs are filled by name from
            those of the program, from ``previous_<field>`` for what the stage before it gave, and from what
            the stages before it gave. None is that of the program, and ``previous_<field>`` for all of that.
        options: Options of the module by name.
        tools: What it may call, as of ``adapter.generate``.
        lm: Its LM; None is that of the program.
        sandbox: Where code that the model wrote is run.
        instructions: The task in words, over those of the signature.
        demos: Examples, each with inputs and outputs by name.
        state: The JSON file that ``module.save("x.json")`` wrote, or what ``module.dump_state()`` gives.
    """

    module: Any = "dspy.Predict"
    signature: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[Any] | None = None
    lm: Any = None
    sandbox: str = "auto"
    instructions: str | None = None
    demos: Sequence[Mapping[str, Any]] | None = None
    state: Any = None


class StageDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """A stage as it is stored.

    Attributes:
        module: Full name in the catalogue, or an import path.
        signature: Its own; None is that of the program.
        instructions: The task in words, over those of its signature.
        options: The options of the module, encoded as a value (``dspex.wire.values``); empty for none.
        tools: Its tools: import paths, and names of functions that are held in memory. None for none.
        sandbox: Where code that the model wrote is run.
        lm: Its LM; None is that of the program.
        demos: Examples, encoded as a value: a list of dicts; empty for none.
        state: What was saved of it (``dspex.program.saved``); empty for none.
    """

    module: str
    signature: Signature | None = None
    instructions: str | None = None
    options: bytes = b""
    tools: list[str] | None = None
    sandbox: str = "auto"
    lm: LMReference | None = None
    demos: bytes = b""
    state: bytes = b""


class Document(msgspec.Struct, frozen=True, omit_defaults=True):
    """A program as it is stored.

    Attributes:
        signature: What goes in and comes out of all of it; None of one program of the user's own.
        stages: Its stages in order.
        lm: The LM of stages that name none; None is that of the session, the adapter, the runtime.
        format: The form in which it is written.
    """

    signature: Signature | None
    stages: tuple[StageDocument, ...]
    lm: LMReference | None = None
    format: int = FORMAT


@dataclass(frozen=True)
class Made:
    """A program that was checked.

    Attributes:
        document: The program.
        tools: The functions among its tools, by name.
    """

    document: Document
    tools: dict[str, Any] = field(default_factory=dict)


def encoded(document: Document) -> bytes:
    """A document as it is stored."""
    return msgspec.msgpack.encode(document)


def decoded(data: bytes) -> Document:
    """The document that was stored."""
    return msgspec.msgpack.decode(data, type=Document)


def names(tools: Sequence[Any], module: str, held: dict[str, Any]) -> list[str]:
    """What tools are called in a document: import paths, and names of what stays in memory.

    Args:
        tools: The tools.
        module: Whose they are.
        held: Gets what stays in memory, by name.

    Raises:
        InvalidOption: One cannot be a tool, or two have one name.
    """
    called: list[str] = []
    for tool in tools:
        if is_path(tool):
            called.append(tool)
            continue
        name = (
            f"MCP server {len(called) + 1}"
            if isinstance(tool, MCPServer)
            else look_at([tool], module)[0].spec.name
        )
        if name in held and held[name] is not tool:
            raise InvalidOption(
                f"two different tools {name!r} in one program; give one another name",
                details={"option": "tools"},
            )
        held[name] = tool
        called.append(name)
    return called
