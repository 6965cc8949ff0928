"""A program that speaks MCP on its standard input and output, and does not outlive this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from dspex.errors import hidden
from dspex.process.group import kill_group
from dspex.process.lifeline import Lifeline
from dspex.process.spawn import boot_command

_log = logging.getLogger("dspex.mcp")
# Bytes of the longest message that is taken.
_LONGEST = 64 * 1024 * 1024
# Seconds that it has to end in when its input has ended.
_LAST_WORDS = 1.0
_LINES_KEPT = 5


class MCPProcess:
    """The program, as a transport for ``mcp.Client``.

    Args:
        command: The program and its arguments.
        env: Its whole environment.
        cwd: Where it is started; None is here.
        hides: What is not to be shown of what it says.

    Attributes:
        ended: Whether it says nothing more.
        said: The last lines of its standard error.
    """

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], cwd: str | None, hides: Sequence[str] = ()
    ) -> None:
        self._command = list(command)
        self._env = dict(env)
        self._cwd = cwd
        self._hides = hides
        self._process: asyncio.subprocess.Process | None = None
        self._lifeline = Lifeline()
        self._tasks: list[asyncio.Task[None]] = []
        self._streams: Any = None
        self.ended = False
        self.said: deque[str] = deque(maxlen=_LINES_KEPT)

    async def __aenter__(self) -> Any:
        import anyio
        from mcp.shared.message import SessionMessage

        arguments = {"command": self._command, "cwd": self._cwd, "lifeline": self._lifeline.read_end}
        try:
            self._process = await asyncio.create_subprocess_exec(
                *boot_command("dspex.process.command"),
                json.dumps(arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=self._env,
                pass_fds=(self._lifeline.read_end,),
                start_new_session=True,
                limit=_LONGEST,
            )
        except BaseException:
            self._lifeline.cut()
            raise
        self._lifeline.handed_over()
        to_session, from_server = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        to_server, from_session = anyio.create_memory_object_stream[SessionMessage](0)
        self._streams = (to_session, from_server, to_server, from_session)
        self._tasks = [
            asyncio.create_task(self._read(to_session)),
            asyncio.create_task(self._write(from_session)),
            asyncio.create_task(self._listen()),
        ]
        return from_server, to_server

    async def __aexit__(self, *_: object) -> None:
        """End it: by the end of its input, or else by SIGKILL, with all that it has started."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        try:
            process.stdin.close()
            async with asyncio.timeout(_LAST_WORDS):
                await process.wait()
        except (TimeoutError, asyncio.CancelledError):
            kill_group(process.pid)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS):
                    await process.wait()  # so that the loop has heard of its end before it is closed itself
        finally:
            self._lifeline.cut()
            for task in self._tasks:
                task.cancel()
            for stream in self._streams:
                stream.close()

    async def _read(self, to_session: Any) -> None:
        import anyio
        from mcp.shared.message import SessionMessage
        from mcp_types import jsonrpc_message_adapter

        assert self._process is not None
        assert self._process.stdout is not None
        try:
            while line := await self._process.stdout.readline():
                try:
                    message: Any = SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
                except ValueError as error:
                    message = error
                await to_session.send(message)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            pass  # the session is gone
        except ValueError as error:
            _log.warning("%s: a message of over %d bytes ends it: %s", self._command[0], _LONGEST, error)
        finally:
            self.ended = True
            to_session.close()
            # What it has started may live on when it has died by itself.
            kill_group(self._process.pid)

    async def _write(self, from_session: Any) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            async for sent in from_session:
                data = sent.message.model_dump_json(by_alias=True, exclude_unset=True)
                self._process.stdin.write(data.encode() + b"\n")
                await self._process.stdin.drain()

    async def _listen(self) -> None:
        async for line in self._lines():
            self.said.append(line)
            _log.info("%s: %s", self._command[0], line)

    async def _lines(self) -> AsyncIterator[str]:
        assert self._process is not None
        assert self._process.stderr is not None
        with contextlib.suppress(ValueError):  # a line without an end
            while line := await self._process.stderr.readline():
                yield hidden.from_text(line.decode(errors="replace").rstrip(), self._hides)
