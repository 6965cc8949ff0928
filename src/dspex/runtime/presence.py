"""The socket that ``dspex status`` asks, one for each open runtime of this user.

It lies in a directory that nobody else may enter, and tells how the runtime stands: no argument, no
variable, nothing of a call. Whatever goes wrong here is a line in the debug log and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import importlib.metadata
import logging
import os
import platform
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from dspex.pool.stats import RuntimeStats
from dspex.process import forks
from dspex.runtime.rendezvous import connect, directories, listen, open_directory, peer, sockets, sweep
from dspex.telemetry.insights import Insight

_log = logging.getLogger("dspex.presence")
_PATIENCE = 1.0  # seconds that a side waits for the other
_LONGEST = 16 * 1024 * 1024  # bytes of a report that are read


class Report(msgspec.Struct, frozen=True):
    """How one runtime stands.

    Attributes:
        pid: The process that has it open.
        program: The name of that process's program, without folder and arguments.
        started: When it was opened, in seconds since 1970.
        python: Version of that process's Python.
        dspex: Version of dspex; None when it is not installed as a distribution.
        dspy: Version of DSPy; None when the workers have a Python of their own.
        stats: What ``runtime.stats()`` gives.
        insights: What ``runtime.insights()`` gives.
    """

    pid: int
    program: str
    started: float
    python: str
    dspex: str | None
    dspy: str | None
    stats: RuntimeStats
    insights: list[Insight] = []


class Answers(NamedTuple):
    """What the runtimes of this user have answered.

    Attributes:
        reports: Those who answered, the oldest first.
        silent: Pids of those who did not in time, or not so that it could be read.
    """

    reports: list[Report]
    silent: list[int]


class Presence:
    """The socket of one runtime. It belongs to the event loop on which it is opened.

    Args:
        stats: Asked for each report.
        insights: Asked too.
        workers_python: The interpreter of the workers; None is this process's.
    """

    def __init__(
        self,
        stats: Callable[[], RuntimeStats],
        insights: Callable[[], list[Insight]],
        workers_python: str | None,
    ) -> None:
        self._stats = stats
        self._insights = insights
        self._same_python = workers_python is None
        self._started = 0.0
        self._directory = -1
        self._name: str | None = None
        self._listener: socket.socket | None = None
        self._serving: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Listen, if there is a place to do so; never raises."""
        self._started = time.time()
        for path in directories():
            try:
                self._listen(path)
            except OSError as error:
                self._withdraw()
                _log.debug("no socket for `dspex status` in %s: %s", path, error)
            else:
                forks.guard(self)
                self._serving = asyncio.create_task(self._serve(), name="dspex-presence")
                return

    def _listen(self, path: Path) -> None:
        self._directory = open_directory(path, create=True)
        with contextlib.suppress(BlockingIOError):
            # Those who tidy /tmp by age leave a directory alone that is locked.
            fcntl.flock(self._directory, fcntl.LOCK_SH | fcntl.LOCK_NB)
        sweep(self._directory)
        self._listener, self._name = listen(self._directory)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._listener is not None:
                try:
                    asker, _ = await loop.sock_accept(self._listener)
                except OSError:  # there is no descriptor left, most likely
                    await asyncio.sleep(_PATIENCE)
                    continue
                # Nothing is read, so a silent asker costs nothing, and one that reads slowly only its time.
                with asker, contextlib.suppress(OSError):
                    if peer(asker) == os.geteuid():
                        async with asyncio.timeout(_PATIENCE):
                            await loop.sock_sendall(asker, msgspec.json.encode(self._report()))
        finally:
            self._withdraw()  # also when the loop is torn down

    def _report(self) -> Report:
        return Report(
            pid=os.getpid(),
            program=_program(),
            started=self._started,
            python=platform.python_version(),
            dspex=_version("dspex"),
            dspy=_version("dspy") if self._same_python else None,
            stats=self._stats(),
            insights=self._insights(),
        )

    async def aclose(self) -> None:
        """Stop listening and take the socket away. Safe to repeat."""
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait([self._serving])
        self._withdraw()  # a task that was cancelled before it began has not done it

    def _withdraw(self) -> None:
        if self._name is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._name, dir_fd=self._directory)
        self._let_go()

    def _let_go(self) -> None:
        self._name = None
        if self._listener is not None:
            forks.close_descriptor(self._listener.detach())
            self._listener = None
        forks.close_descriptor(self._directory)
        self._directory = -1

    def close_after_fork(self) -> None:
        """In a forked copy: the socket and its name are the original's."""
        self._let_go()


def ask(patience: float = _PATIENCE) -> Answers:
    """Ask every runtime of this user, and take away the sockets of those that are gone.

    Args:
        patience: Seconds for all of them together.
    """
    deadline = time.monotonic() + patience
    asked: list[tuple[int, socket.socket]] = []
    silent: list[int] = []
    with contextlib.ExitStack() as opened:
        for path in dict.fromkeys(directories()):
            try:
                directory = open_directory(path)
            except OSError:
                continue
            opened.callback(os.close, directory)
            for name, pid in sockets(directory):
                try:
                    # All are asked before the first answer is waited for.
                    if sock := connect(directory, name, deadline):
                        asked.append((pid, opened.enter_context(sock)))
                except OSError:
                    silent.append(pid)
        reports = []
        for pid, sock in asked:
            try:
                reports.append(msgspec.json.decode(_read(sock, deadline), type=Report))
            except (OSError, msgspec.DecodeError):
                silent.append(pid)
    return Answers(sorted(reports, key=lambda report: report.started), sorted(silent))


def _read(sock: socket.socket, deadline: float) -> bytes:
    received = bytearray()
    while len(received) < _LONGEST:
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        if not (more := sock.recv(65536)):
            break
        received += more
    return bytes(received)


def _program() -> str:
    """The program's name; of ``python -m package`` the package's."""
    path = Path(next(iter(sys.argv), ""))
    name = path.parent.name if path.name == "__main__.py" else path.name
    return name.encode("utf-8", "replace").decode()


@functools.cache
def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
