"""MCP servers: started or reached once for a runtime, and their tools among those of its calls."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from dspex.errors import DspexError, InvalidOption, LMNotConfigured, PythonTimeout, ToolError, hidden
from dspex.lm import secrets
from dspex.pool.zygote_client import Preparation
from dspex.program.toolspec import CallersTool, from_json_schema
from dspex.runtime.functions import Functions
from dspex.runtime.mcp_process import MCPProcess
from dspex.runtime.question import Question
from dspex.tools import MCPServer
from dspex.types import ToolSpec

T = TypeVar("T")
# Seconds that a server has to start and to say what it has, where the call has no deadline.
_START_LIMIT = 60.0
_CLOSE_LIMIT = 3.0
# Characters of the shortest value that may be a key; a shorter one is a word such as "true".
_KEY = 8


class _Server:
    """One server; all of it lives on the loop of the callers' functions.

    Args:
        server: As the caller gave it.
    """

    def __init__(self, server: MCPServer) -> None:
        self._server = server
        self._lock = asyncio.Lock()
        self._client: Any = None
        self._listed: list[Any] = []
        self._process: MCPProcess | None = None
        self._life: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._broken = False
        self._secrets: list[str] = []

    async def tools(self) -> list[Any]:
        """What it has, as it told when it was started."""
        await self._reached()
        return self._listed

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        """Call one of its tools.

        Raises:
            RuntimeError: The server says that it failed.
            ToolError: The server cannot be reached.
        """
        client = await self._reached()
        try:
            result = await client.call_tool(name, arguments)
        except Exception as error:  # noqa: BLE001 (whatever the client meets, its server did not answer)
            if self._process is None or self._process.ended:
                self._broken = True  # it is started, or reached, anew by whoever comes next
            raise ToolError(f"the {self._server!r} did not answer: {self._said(error)}") from None
        return _content(result, self._secrets)

    async def _reached(self) -> Any:
        async with self._lock:
            if self._client is not None and (self._broken or (self._process and self._process.ended)):
                await self.close()
            if self._client is None:
                await self._start()
            return self._client

    async def _start(self) -> None:
        """Have a task of its own enter the client: only the task that entered it may leave it."""
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closing, self._broken = asyncio.Event(), False
        self._life = asyncio.create_task(self._live(started), name="dspex-mcp")
        try:
            await asyncio.shield(started)
        except asyncio.CancelledError:
            self._life.cancel()
            raise

    async def _live(self, started: asyncio.Future[None]) -> None:
        try:
            async with contextlib.AsyncExitStack() as stack:
                client = await stack.enter_async_context(await self._made(stack))
                listed, cursor = [], None
                while True:
                    page = await client.list_tools(cursor=cursor)
                    listed += page.tools
                    cursor = page.next_cursor
                    if not cursor:
                        break
                self._client, self._listed = client, listed
                started.set_result(None)
                await self._closing.wait()
        except BaseException as error:
            if not started.done():
                started.set_exception(self._failed(error))
                started.exception()  # whoever waited may have gone
            elif isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self._client = None

    async def _made(self, stack: contextlib.AsyncExitStack) -> Any:
        mcp = await _import("mcp")
        server = self._server
        self._process = None
        if server.command is not None:
            given = await _fetched(server.env, "env")
            self._secrets = _secrets(server.env, given)
            env = {**Preparation().environment(), **given}
            self._process = MCPProcess(list(server.command), env, server.cwd, self._secrets)
            return mcp.Client(self._process)
        http = await _import("mcp.client.streamable_http")
        utils = await _import("mcp.shared._httpx_utils")
        headers = await _fetched(server.headers, "headers")
        self._secrets = [*_secrets(server.headers, headers), *_in_address(server.url or "")]
        client = utils.create_mcp_http_client(headers=headers)
        await stack.enter_async_context(client)
        return mcp.Client(http.streamable_http_client(server.url, http_client=client))

    def _failed(self, error: BaseException) -> DspexError:
        if isinstance(error, DspexError):
            return error
        said = f"; it said: {' | '.join(self._process.said)}" if self._process and self._process.said else ""
        return ToolError(
            f"the {self._server!r} was not reached: {self._said(error)}{said}",
            details={"server": repr(self._server)},
        )

    def _said(self, error: BaseException) -> str:
        return hidden.from_text(_innermost(error), self._secrets)

    async def close(self) -> None:
        """End it, or leave it."""
        self._closing.set()
        life, self._life, self._client = self._life, None, None
        if life is not None:
            done, _ = await asyncio.wait([life], timeout=_CLOSE_LIMIT)
            if not done:
                life.cancel()


class Servers:
    """The servers of one runtime. Used on the runtime's loop; they live on that of the callers' functions.

    Args:
        functions: Has that loop.
    """

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self._servers: dict[Any, _Server] = {}

    async def into(self, question: Question) -> Question:
        """The same question with the servers' tools in the place of the servers.

        Raises:
            DspexError: One of them cannot be reached, with ``request_id`` set.
        """
        try:
            tools: list[Any] = []
            for tool in question.tools or ():
                if isinstance(tool, MCPServer):
                    tools += await self._tools(tool, question.left())
                else:
                    tools.append(tool)
        except DspexError as error:
            raise error.for_request(question.request_id)  # noqa: B904 (it is the same error)
        return replace(question, tools=tools)

    async def _tools(self, server: MCPServer, seconds: float | None) -> list[CallersTool]:
        found = await self._there(lambda: self._of(server).tools(), seconds, server)
        names = [tool.name for tool in found]
        wanted = names if server.tools is None else list(server.tools)
        if unknown := [name for name in (*wanted, *server.idempotent) if name not in names]:
            raise InvalidOption(
                f"the {server!r} has no tool {', '.join(unknown)}; it has {', '.join(names)}",
                details={"option": "tools", "unknown": unknown, "known": names},
            )
        return [self._tool(server, tool) for tool in found if tool.name in wanted]

    def _tool(self, server: MCPServer, tool: Any) -> CallersTool:
        parameters, types = from_json_schema(tool.input_schema or {})
        spec = ToolSpec(
            tool.name,
            tool.description or "",
            parameters,
            True,  # the server says what it does not take
            None,
            tool.name in server.idempotent,
            server.fatal,
            server.approve is not None,
            mcp=True,
        )

        async def call(**arguments: Any) -> Any:
            return await self._of(server).call(tool.name, arguments)

        return CallersTool(spec, call, types, server.approve, self._functions.loop())

    def _of(self, server: MCPServer) -> _Server:
        """On the functions' loop."""
        command = None if server.command is None else tuple(server.command)
        pairs = (tuple(sorted(server.env.items())), tuple(sorted(server.headers.items())))
        key = (command, server.url, pairs, server.cwd)
        if key not in self._servers:
            self._servers[key] = _Server(server)
        return self._servers[key]

    async def _there(
        self, work: Callable[[], Coroutine[Any, Any, T]], seconds: float | None, server: MCPServer
    ) -> T:
        async def run() -> T:
            return await work()

        going = asyncio.run_coroutine_threadsafe(run(), self._functions.loop())
        limit = _START_LIMIT if seconds is None else max(0.0, seconds)
        try:
            async with asyncio.timeout(limit):
                return await asyncio.wrap_future(going)
        except TimeoutError:
            raise PythonTimeout(
                f"the {server!r} was not reached within {limit:.3g} s; raise timeout=... if it needs longer",
                details={"phase": "queued", "elapsed": round(limit, 3), "killed": False},
            ) from None

    async def aclose(self) -> None:
        """End all of them. Safe to repeat."""
        servers, self._servers = list(self._servers.values()), {}
        loop = self._functions.running_loop
        if servers and loop is not None:

            async def close() -> None:
                await asyncio.gather(*(server.close() for server in servers))

            with contextlib.suppress(TimeoutError, RuntimeError):
                closing = asyncio.run_coroutine_threadsafe(close(), loop)
                await asyncio.wait_for(asyncio.wrap_future(closing), 2 * _CLOSE_LIMIT)


def has_servers(tools: Sequence[Any] | None) -> bool:
    """Whether there are servers among the tools of a call."""
    return isinstance(tools, list | tuple) and any(isinstance(tool, MCPServer) for tool in tools)


async def _import(name: str) -> Any:
    try:
        # In a thread: it takes a second, which the loop of everybody's functions does not have.
        return await asyncio.to_thread(functools.partial(importlib.import_module, name))
    except ModuleNotFoundError as error:
        raise InvalidOption(
            "MCP servers need the extra mcp: pip install 'dspex[mcp]'", details={"option": "tools"}
        ) from error


async def _fetched(given: Mapping[str, str], where: str) -> dict[str, str]:
    """The values of references in their place."""
    found = {}
    for name, value in given.items():
        try:
            found[name] = await secrets.look_up(value) if secrets.takes_time(value) else secrets.fetch(value)
        except LMNotConfigured as error:
            missing = error.details.get("variable", "what it refers to")
            raise InvalidOption(
                f"{where}[{name!r}] of an MCPServer refers to {missing}, which is not there",
                details={"option": where, "name": name},
            ) from None
    return found


def _secrets(given: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """What is not to be shown: what references stand for, and what is long enough to be a key itself."""
    return [value for name, value in found.items() if value != given[name] or len(value) >= _KEY]


def _in_address(url: str) -> list[str]:
    parts = urlsplit(url)
    return [text for text in (parts.password, *(value for _, value in parse_qsl(parts.query))) if text]


def _content(result: Any, secrets: Sequence[str]) -> Any:
    """What DSPy makes of a result: its text, the one or all of them, or else its other parts.

    Raises:
        RuntimeError: The server says that the tool failed.
    """
    texts = [part.text for part in result.content if part.type == "text"]
    said = texts[0] if len(texts) == 1 else texts
    if result.is_error:
        raise RuntimeError(hidden.from_text(f"Failed to call a MCP tool: {said}", secrets))
    return said or [part.model_dump(mode="json") for part in result.content if part.type != "text"]


def _innermost(error: BaseException) -> str:
    """What a group of tasks failed with, in words."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
