"""Tools as a caller gives them: functions, what is said of them, and who has to agree to their calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import msgspec

from dspex.errors import InvalidOption
from dspex.types import without_password


class ToolRequest(msgspec.Struct, frozen=True):
    """A call of a tool that somebody has to agree to.

    Attributes:
        tool: The tool's name.
        arguments: What the model wants to call it with, by name; plain data.
        request_id: The call that it belongs to, as in ``Response.request_id``.
    """

    tool: str
    arguments: dict[str, Any]
    request_id: str


class Allow(msgspec.Struct, frozen=True):
    """The tool may be called.

    Attributes:
        arguments: What it is called with, in the place of what the model wrote; None leaves that as it is.
    """

    arguments: dict[str, Any] | None = None


class Deny(msgspec.Struct, frozen=True):
    """The tool is not called. The model is told so, and goes on.

    Attributes:
        reason: Why, for the model to read.
    """

    reason: str = "it was not allowed"


Verdict = Allow | Deny | bool
Approve = Callable[[ToolRequest], Verdict | Awaitable[Verdict]]


class Tool:
    """A function that a model may have called, with what its signature does not say.

    Args:
        fn: A function, method, closure or other callable of yours, sync or async, which runs in this process;
            the import path of one (``"shop.tools:lookup"``), which a worker loads and runs; or a
            ``dspy.Tool``. Its parameters have names; type hints become the schema that the model is told.
        idempotent: Calling it twice does no more than calling it once. A call whose worker was lost after
            another tool was called fails with ``worker_lost`` instead of running again.
        fatal: Its failure ends the call with ``tool_error``, instead of being told to the model.
        approve: Asked before each call of it, in this process, sync or async. It gets a ``ToolRequest`` and
            gives ``Allow()``, ``Allow(arguments={...})`` or ``Deny("reason")``; True and False do as well.
        name: What the model calls it; None is the function's own name.
        description: What the model is told that it does; None is the function's docstring.

    Raises:
        InvalidOption: One of these is not what it has to be.
    """

    __slots__ = ("approve", "description", "fatal", "fn", "idempotent", "name")

    def __init__(
        self,
        fn: Callable[..., Any] | str,
        idempotent: bool = False,
        fatal: bool = False,
        approve: Approve | None = None,
        name: str | None = None,
        description: str | None = None,
    ) -> None:
        if isinstance(fn, Tool):
            raise _refuse("fn", "a function or an import path, and not a Tool again")
        if not isinstance(fn, str) and not callable(fn):
            raise _refuse("fn", f"a function, an import path or a dspy.Tool, not {type(fn).__name__}")
        for option, value in (("idempotent", idempotent), ("fatal", fatal)):
            if not isinstance(value, bool):
                raise _refuse(option, f"True or False, not {value!r}")
        if approve is not None and not callable(approve):
            raise _refuse("approve", f"a function, not {type(approve).__name__}")
        for option, text in (("name", name), ("description", description)):
            if text is not None and not isinstance(text, str):
                raise _refuse(option, f"a text, not {type(text).__name__}")
        self.fn = fn
        self.idempotent = idempotent
        self.fatal = fatal
        self.approve = approve
        self.name = name
        self.description = description

    def __repr__(self) -> str:
        shown = self.fn if isinstance(self.fn, str) else getattr(self.fn, "__name__", type(self.fn).__name__)
        return f"Tool({shown!r})"


class MCPServer(msgspec.Struct, frozen=True, kw_only=True):
    """A server that has tools and speaks MCP, the Model Context Protocol. It takes the extra ``mcp``.

    A runtime starts or reaches it when a call first names it, keeps it for all calls, starts it again when it
    has died, and ends it when it is closed. Two that are equal are one server.

    Attributes:
        command: The program and its arguments, which speaks MCP on its standard input and output.
        url: Where a server is reached by streamable HTTP, in the place of a command.
        tools: Names of those of its tools that the model may call; None is all.
        env: Variables of the program's environment beside those that it needs to run. A value may be a
            reference to a secret (``env:GITHUB_TOKEN``, ``file:...``, ``keyring:...``).
        headers: Headers of every request to the URL; their values may be references too.
        cwd: Where the program is started.
        idempotent: Names of those of its tools that may run twice (``Tool.idempotent``).
        fatal: Whether a failure of one of its tools ends the call.
        approve: Asked before each call of one of its tools, as of a ``Tool``.
    """

    command: tuple[str, ...] | list[str] | None = None
    url: str | None = None
    tools: tuple[str, ...] | list[str] | None = None
    env: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    cwd: str | None = None
    idempotent: tuple[str, ...] | list[str] = ()
    fatal: bool = False
    approve: Approve | None = None

    def __post_init__(self) -> None:
        if (self.command is None) == (self.url is None):
            raise InvalidOption("MCPServer takes either command=[...] or url=..., and one of them")
        if self.command is not None and not (isinstance(self.command, list | tuple) and self.command):
            raise _refuse("command", "a list of the program and its arguments")
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise _refuse("url", f"an address that begins with http:// or https://, not {_shown(self.url)!a}")

    def __repr__(self) -> str:
        where = list(self.command or ()) if self.url is None else _shown(self.url)
        return f"MCPServer({where!r})"


class ToolRecord(msgspec.Struct, frozen=True):
    """One call of a tool.

    Attributes:
        tool: Its name.
        arguments: What it was called with, by name.
        seconds: How long it took, its approval included.
        status: ``"ok"``, ``"error"`` or ``"denied"``.
        error: What went wrong, or why it was denied; None when it returned.
        approval: ``"allowed"`` or ``"edited"`` by its ``approve``; empty where nobody was asked.
    """

    tool: str
    arguments: dict[str, Any]
    seconds: float
    status: Literal["ok", "error", "denied"]
    error: str | None = None
    approval: str = ""


def _shown(url: str) -> str:
    """An address without what may be a key in it: a password, and all after the ``?``."""
    bare, asks, _ = url.partition("?")
    return without_password(bare) + ("?***" if asks else "")


def _refuse(option: str, takes: str) -> InvalidOption:
    return InvalidOption(f"{option} of a tool is {takes}", details={"option": option})
