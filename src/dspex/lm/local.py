"""The model on this machine: one supervised server process for all workers.

It is started when it is first asked for, started again when it dies, and gone when it is closed or
this process ends. A server that keeps dying soon after its start is left alone for a while.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import os
import secrets
import select
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dspex.errors import Cancelled, DspexError, LMUnavailable, PoolClosed
from dspex.lm.llama_server import Configuration, ask
from dspex.lm.weights import QWEN, Progress, Weights, find
from dspex.process import forks, limits
from dspex.process.spawn import Child, spawn

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_SETTLED = 30.0  # seconds after which a death is an accident, and no sign that it cannot live
_MOST_DEATHS = 3  # early ones in a row, after which it is left alone
_REST = 30.0  # seconds for which it is left alone


@dataclass(frozen=True)
class Endpoint:
    """Where the model answers.

    Attributes:
        base_url: With the ``/v1`` of OpenAI's protocol.
        api_key: What each request has to show; other users of this machine do not know it.
        model: The name it answers to.
    """

    base_url: str
    api_key: str = field(repr=False)
    model: str


class LocalModel:
    """A model in a child process, for callers on one event loop.

    Args:
        path: A GGUF file; None is the embedded model.
        slots: Requests that it answers side by side, each with a context of 4,096 tokens.
        cache_dir: Where the embedded model is kept; None is the user's cache directory for dspex.
        on_progress: Called on the loop while weights are fetched and loaded.
        weights: Which file the embedded model is.
    """

    def __init__(
        self,
        path: str | None,
        *,
        slots: int,
        cache_dir: Path | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        weights: Weights = QWEN,
    ) -> None:
        self._find = functools.partial(find, path, cache_dir=cache_dir, weights=weights)
        self._slots = slots
        self._on_progress = on_progress
        self._stopped = False  # also read by the thread that starts the server
        self._closed: str | None = None
        self._server: _Server | None = None
        self._starting: asyncio.Task[Endpoint] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._deaths = 0
        self._last_death = (0.0, "")
        self._process = os.getpid()
        forks.guard(self)

    @property
    def pid(self) -> int | None:
        """The server's process; None while there is none."""
        return self._server.child.pid if self._server is not None else None

    async def endpoint(self) -> Endpoint:
        """The running server's address and key, after starting it if need be.

        All who wait share one start, and it goes on when one of them is cancelled. Address and key
        are new after each start, so ask before each use.

        Raises:
            LMNotConfigured: No weights, or no runtime for them; the message says what to install.
            LMUnavailable: The file cannot be served, or the server keeps dying; ``details["cause"]``.
            PoolClosed: ``aclose()`` was called, or this is a fork of the process that made it.
        """
        while True:
            if self._closed is not None:
                raise PoolClosed(self._closed)
            if self._server is None or self._watcher is None:
                break
            if not self._server.has_exited():
                return self._server.endpoint
            await asyncio.wait([self._watcher])  # it died a moment ago, and the watcher is about to see it
        if self._starting is None:
            self._refuse_to_loop()
            self._start()
        assert self._starting is not None
        try:
            return await asyncio.shield(self._starting)
        except DspexError as error:
            raise copy.copy(error) from error  # one for each caller, to mark with its own request

    async def aclose(self) -> None:
        """Kill the server, or give up its start, and wait until nothing is left of it."""
        self._closed = self._closed or "this local model is closed"
        self._stopped = True
        if self._starting is not None:
            await asyncio.wait([self._starting])
        if self._server is not None and self._watcher is not None:
            self._server.child.kill()
            await asyncio.wait([self._watcher])

    def close_after_fork(self) -> None:
        """In a forked copy of the process: the server belongs to the original."""
        self._closed = (
            f"this local model was opened in process {self._process}, before a fork; open one in the fork"
        )

    def _start(self) -> None:
        self._starting = asyncio.create_task(self._bring_up(), name="dspex-local-model")
        # A restart may fail while nobody waits for it; whoever asks next starts it again and is told.
        self._starting.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _bring_up(self) -> Endpoint:
        loop = asyncio.get_running_loop()
        # A bare future and no task: a loop that is torn down cancels every task, and the process that
        # the thread has started would be lost.
        launched = loop.run_in_executor(None, self._launch, loop)
        try:
            self._server = await asyncio.shield(launched)
        except asyncio.CancelledError:
            self._closed = self._closed or "the event loop of this local model has ended"
            self._stopped = True
            await asyncio.wait([launched])
            if launched.exception() is None:
                launched.result().end()
            raise
        except _Died as error:
            self._count_death(str(error))
            raise LMUnavailable(
                f"the local model's server {error} while it was loading", details={"cause": str(error)}
            ) from None
        finally:
            self._starting = None
        self._watcher = asyncio.create_task(self._watch(self._server), name="dspex-local-model-watcher")
        return self._server.endpoint

    def _launch(self, loop: asyncio.AbstractEventLoop) -> _Server:
        """The whole start, blocking, in a thread."""

        def report(progress: Progress) -> None:
            if self._on_progress is not None:
                loop.call_soon_threadsafe(self._on_progress, progress)

        try:
            gguf = self._find(progress=report, stopped=lambda: self._stopped)
            size = gguf.stat().st_size
            report(Progress("loading", 0, size))
            server = _launch(gguf, self._slots, lambda: self._stopped)
            report(Progress("loading", size, size))
            return server
        except Cancelled:
            raise PoolClosed("this local model was closed while it started") from None
        except OSError as error:
            raise LMUnavailable(
                f"the local model's server cannot be started: {error}", details={"cause": str(error)}
            ) from error

    async def _watch(self, server: _Server) -> None:
        try:
            status = await server.child.wait()
        finally:
            server.end()  # it goes with its loop, too: then the wait is cancelled
            self._server = None
        if self._closed is not None:
            return
        if time.monotonic() - server.since < _SETTLED:
            self._count_death(_ending(status))
        else:
            self._deaths = 0
        if self._deaths < _MOST_DEATHS:
            self._start()

    def _count_death(self, cause: str) -> None:
        self._deaths += 1
        self._last_death = (time.monotonic(), cause)

    def _refuse_to_loop(self) -> None:
        died_at, cause = self._last_death
        rest = died_at + _REST - time.monotonic()
        if self._deaths >= _MOST_DEATHS and rest > 0:
            raise LMUnavailable(
                f"the local model's server died {self._deaths} times in a row soon after its start; the "
                f"last time it {cause}; it is tried again in {rest:.0f} s",
                retry_after=rest,
                details={"cause": cause, "deaths": self._deaths},
            )


class _Died(Exception):
    """The child ended before it answered; the text says how."""


class _Server:
    """A child that serves."""

    def __init__(self, child: Child, control: socket.socket, endpoint: Endpoint) -> None:
        self.child = child
        self.endpoint = endpoint
        self.since = time.monotonic()
        self._control = control
        forks.guard(self)

    def has_exited(self) -> bool:
        if self.child.pidfd < 0:
            return True
        poll = select.poll()
        poll.register(self.child.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def end(self) -> None:
        """Kill it and reap it; blocks while the kernel takes it apart. Safe to repeat."""
        self.child.kill()
        self._control.close()
        self.child.bury()

    def close_after_fork(self) -> None:
        self._control.close()


def _launch(gguf: Path, slots: int, stopped: Callable[[], bool]) -> _Server:
    """Start the child and wait until it has loaded the model."""
    key = secrets.token_urlsafe(32)
    # One core stays free: with all of them, OpenMP's spinning collapses the speed under any other load.
    threads = max(1, limits.cores() - 1)
    configuration = Configuration(str(gguf), gguf.stem, key, slots, threads)
    ours, theirs = socket.socketpair()
    child: Child | None = None
    try:
        with theirs:
            child = spawn(
                "dspex.lm.llama_server",
                descriptors={"control": theirs.fileno()},
                stderr=subprocess.DEVNULL,
            )
        answer = ask(ours, configuration, stopped)
        if answer is None:
            child.kill()
            raise _Died(_ending(child.bury()))  # noqa: TRY301 - one way out for every failure
        if answer.address is None:
            raise answer.failure(str(gguf))  # noqa: TRY301
    except BaseException:
        ours.close()
        if child is not None:
            child.kill()
            child.bury()
        raise
    return _Server(child, ours, Endpoint(f"{answer.address}/v1", key, gguf.stem))


def _ending(status: int) -> str:
    if status == -signal.SIGKILL:
        return "was killed (SIGKILL), as happens when memory runs out"
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"
