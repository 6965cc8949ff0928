"""The supervisor's side of a zygote: start it, ask it for workers, start another when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from dspex.errors import PoolUnhealthy
from dspex.pool.output import Output
from dspex.process import forks, limits
from dspex.process.lifeline import Lifeline
from dspex.process.spawn import Child, spawn_in_thread
from dspex.telemetry.events import Event, ZygoteLost, ZygoteStarted
from dspex.wire import packets
from dspex.wire.messages import (
    PROTOCOL,
    Boot,
    Booted,
    BootFailed,
    Exited,
    Fork,
    Forked,
    WorkerOptions,
    read_from_zygote,
)

_log = logging.getLogger("dspex.pool")
_LOOPBACK = "localhost,127.0.0.1,::1"
# Seconds for DSPy's import and the preloads; DSPy alone takes four on a cold disk.
_BOOT_LIMIT = 120.0
_BASIC_ENV = (
    "PATH", "HOME", "TMPDIR", "LANG", "TZ", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
    "http_proxy", "https_proxy", "no_proxy", "all_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
)  # fmt: skip


@dataclass(frozen=True)
class Preparation:
    """What makes one zygote differ from another; pools with the same one share it.

    Attributes:
        python: The interpreter; None is this process's.
        pass_env: Environment variables to pass beside the basic ones.
        preload: Modules that workers have imported.
    """

    python: str | None = None
    pass_env: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()

    def environment(self) -> dict[str, str]:
        """The workers' environment: what programs need, and no key that nobody passed."""
        names = (*_BASIC_ENV, *self.pass_env, *(name for name in os.environ if name.startswith("LC_")))
        found = {name: os.environ[name] for name in names if name in os.environ}
        if any(name.lower().endswith("_proxy") for name in found):
            # A server on this machine, the embedded model's among them, is never behind a proxy.
            direct = found.get("no_proxy") or found.get("NO_PROXY")
            found["no_proxy"] = found["NO_PROXY"] = ",".join(filter(None, [direct, _LOOPBACK]))
        return found


@dataclass(frozen=True)
class Forkling:
    """A worker process that was just forked.

    Attributes:
        number: Its number.
        pid: Its pid, which is its process group too.
        pidfd: Readable once it has exited.
        sock: The supervisor's end of its channel.
        lifeline: Kills its group when closed.
        outputs: Readers of its standard output and error.
    """

    number: int
    pid: int
    pidfd: int
    sock: socket.socket
    lifeline: Lifeline
    outputs: tuple[Output, ...]

    def kill(self) -> None:
        """SIGKILL it, by its pidfd: its number may be somebody else's by now."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def rss(self) -> int:
        """Its resident memory in bytes; 0 when it is gone."""
        return limits.resident_bytes(self.pid)


class ZygoteGone(Exception):
    """The zygote died before it had forked what was asked for; the next fork starts another.

    Attributes:
        pid: Its pid, for it may be said more than once.
    """

    def __init__(self, pid: int, cause: str) -> None:
        super().__init__(cause)
        self.pid = pid


class Zygote(Protocol):
    """Where the workers of one preparation come from: ``ZygoteClient``, or a stand-in for tests."""

    async def fork(self, options: WorkerOptions, on_exit: Callable[[int, int | None], None]) -> Forkling:
        """A new worker, as ``ZygoteClient.fork`` gives it."""

    async def aclose(self) -> None:
        """End all that is left of its workers."""


class _Zygote:
    """One zygote process, from its start to its death."""

    def __init__(self, child: Child, control: socket.socket, stderr: Output) -> None:
        self.child = child
        self.control = control
        self.stderr = stderr
        self.booted: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self.forks: dict[int, asyncio.Future[tuple[int, int]]] = {}
        self.watch: asyncio.Task[None] | None = None

    def cause(self) -> str:
        """What it last said, for an error message."""
        return next((line for line in reversed(self.stderr.tail) if line.strip()), "it said nothing")


class ZygoteClient:
    """Workers of one preparation.

    Args:
        preparation: What the workers have in common.
        emit: Told when a zygote has started or died.
    """

    def __init__(self, preparation: Preparation, emit: Callable[[Event], None]) -> None:
        self._preparation = preparation
        self._emit = emit
        self._next = 1
        self._exits: dict[int, Callable[[int, int | None], None]] = {}
        self._alive: set[_Zygote] = set()
        self._zygote: _Zygote | None = None
        self._starting = asyncio.Lock()
        self._late: list[str] = []
        self._closed = False
        forks.guard(self)

    async def fork(self, options: WorkerOptions, on_exit: Callable[[int, int | None], None]) -> Forkling:
        """A new worker, which has yet to say that it is ready.

        Args:
            options: What the worker is told.
            on_exit: Called with its number and exit status when it is dead and swept.

        Raises:
            PoolUnhealthy: The zygote does not start; ``details["cause"]`` says why.
            ZygoteGone: It died meanwhile.
        """
        zygote = await self._running()
        number = self._next
        self._next += 1
        with contextlib.ExitStack() as opened:  # at the limit of descriptors any of these may fail
            ours, theirs = socket.socketpair()
            opened.callback(ours.close)
            opened.callback(theirs.close)
            pipes = []
            for _ in range(2):
                pipes.append(os.pipe2(os.O_CLOEXEC))
                opened.callback(os.close, pipes[-1][0])
                opened.callback(os.close, pipes[-1][1])
            lifeline = Lifeline()
            opened.pop_all()
        outputs = (Output(pipes[0][0], number, "stdout"), Output(pipes[1][0], number, "stderr"))
        answer: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        zygote.forks[number] = answer
        try:
            options = msgspec.structs.replace(options, late_preload=list(self._late))
            handed = [theirs.fileno(), lifeline.read_end, pipes[0][1], pipes[1][1]]
            try:
                packets.send(zygote.control, Fork(number, options), handed)
            except OSError as error:
                raise ZygoteGone(zygote.child.pid, f"the zygote takes no requests: {error}") from error
            pid, pidfd = await answer
            self._exits[number] = on_exit
        except BaseException:
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                os.close(answer.result()[1])
            ours.close()
            lifeline.cut()
            for output in outputs:
                output.close()
            raise
        finally:
            zygote.forks.pop(number, None)
            theirs.close()
            lifeline.handed_over()
            for _, write_end in pipes:
                os.close(write_end)
        for output in outputs:
            output.belongs_to(pid)
        return Forkling(number, pid, pidfd, ours, lifeline, outputs)

    async def _running(self) -> _Zygote:
        async with self._starting:
            if self._closed:
                raise _unhealthy("the runtime is closing")
            while self._zygote is None:
                started = time.monotonic()
                zygote = await self._start()
                try:
                    async with asyncio.timeout(_BOOT_LIMIT):
                        threaded = await asyncio.shield(zygote.booted)
                except TimeoutError:
                    zygote.child.kill()
                    raise _unhealthy(f"the imports took longer than {_BOOT_LIMIT:g} s") from None
                except BaseException:
                    zygote.child.kill()
                    raise
                if threaded:
                    _log.warning(
                        "preloading %s starts a thread, which a fork would lose: each worker imports it",
                        ", ".join(threaded),
                    )
                    self._late += threaded
                    await self._end(zygote)
                else:
                    self._zygote = zygote
                    seconds = round(time.monotonic() - started, 3)
                    self._emit(ZygoteStarted(pid=zygote.child.pid, seconds=seconds))
            return self._zygote

    async def _start(self) -> _Zygote:
        if (refused := limits.pidfds_refused()) is not None:
            raise _unhealthy(refused)
        preload = [module for module in self._preparation.preload if module not in self._late]
        try:
            directory = os.getcwd()  # noqa: PTH109
        except FileNotFoundError:
            directory = "/"
        boot = Boot(PROTOCOL, [entry for entry in sys.path if isinstance(entry, str)], directory, preload)
        ours, theirs = packets.pair()
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        supervisor = os.pidfd_open(os.getpid())
        try:
            child = await spawn_in_thread(
                "dspex.worker.zygote",
                descriptors={"control": theirs.fileno(), "supervisor": supervisor},
                env=self._preparation.environment(),
                python=self._preparation.python,
                stdout=write_end,
                stderr=write_end,
            )
        except BaseException:
            ours.close()
            os.close(read_end)
            raise
        finally:
            theirs.close()
            os.close(write_end)
            os.close(supervisor)
        ours.setblocking(False)
        zygote = _Zygote(child, ours, Output(read_end, "zygote", "stderr"))
        zygote.stderr.belongs_to(child.pid)
        with contextlib.suppress(OSError):  # it is dead already, which is told when it is buried
            packets.send(ours, boot)
        asyncio.get_running_loop().add_reader(ours.fileno(), self._on_readable, zygote)
        self._alive.add(zygote)
        zygote.watch = asyncio.create_task(self._watch(zygote))
        return zygote

    def _on_readable(self, zygote: _Zygote) -> None:
        try:
            message, descriptors = packets.receive(zygote.control, read_from_zygote)
        except BlockingIOError:
            return
        except (OSError, msgspec.DecodeError):
            message, descriptors = None, []
        match message:
            case Booted() | BootFailed():
                _settle(zygote.booted, message)
            case Forked(worker=number, pid=pid):
                answer = zygote.forks.get(number)
                if not descriptors:
                    if answer is not None and not answer.done():
                        answer.set_exception(OSError("the zygote could not fork, or a descriptor was lost"))
                elif answer is not None and not answer.done():
                    answer.set_result((pid, descriptors[0]))
                else:
                    # Nobody waits for this worker any more: its lifeline is cut, so it is dying.
                    os.close(descriptors[0])
            case Exited(worker=number, status=status):
                on_exit = self._exits.pop(number, None)
                if on_exit is not None:
                    on_exit(number, status)
            case None:
                asyncio.get_running_loop().remove_reader(zygote.control.fileno())

    async def _watch(self, zygote: _Zygote) -> None:
        """Wait for the zygote's death; its workers die with it, and the next fork starts another."""
        status = await zygote.child.wait()
        asyncio.get_running_loop().remove_reader(zygote.control.fileno())
        zygote.stderr.read_to_end()
        self._alive.discard(zygote)
        if self._zygote is zygote:
            self._zygote = None
            self._exits.clear()
        cause = f"the zygote exited with status {status}: {zygote.cause()}"
        if zygote.booted.done() and not self._closed:
            self._emit(ZygoteLost(pid=zygote.child.pid, cause=cause))
        _fail(zygote.booted, cause)
        for answer in zygote.forks.values():
            if not answer.done():
                answer.set_exception(ZygoteGone(zygote.child.pid, cause))
                answer.exception()  # it may be that nobody waits
        zygote.control.close()

    async def _end(self, zygote: _Zygote) -> None:
        """Let it sweep its workers and exit, which it does when its socket ends; else kill it."""
        with contextlib.suppress(OSError):
            zygote.control.shutdown(socket.SHUT_RDWR)
        if zygote.watch is None or zygote.watch.cancelled():  # by an event loop that is torn down
            zygote.watch = asyncio.create_task(self._watch(zygote))
        done, _ = await asyncio.wait([zygote.watch], timeout=2.0)
        if not done:
            zygote.child.kill()
            await asyncio.wait([zygote.watch])

    async def aclose(self) -> None:
        """End the zygote and all that is left of its workers."""
        self._closed = True
        await asyncio.gather(*[self._end(zygote) for zygote in list(self._alive)])

    def close_after_fork(self) -> None:
        """In a forked copy: the zygote serves the process that started it."""
        self._closed = True
        for zygote in self._alive:
            forks.close_descriptor(zygote.control.detach())


def _settle(booted: asyncio.Future[list[str]], message: Booted | BootFailed) -> None:
    """The zygote is ready, or has to be started again without the preloads that made threads, or broken."""
    if isinstance(message, BootFailed) and not message.threaded:
        _fail(booted, message.cause)
    elif isinstance(message, Booted) and message.protocol != PROTOCOL:
        _fail(booted, f"the zygote speaks protocol {message.protocol} and this process {PROTOCOL}")
    elif not booted.done():
        if isinstance(message, Booted):
            _log.debug("the zygote (pid %d) was ready after %.2f s", message.pid, message.seconds)
        booted.set_result(message.threaded if isinstance(message, BootFailed) else [])


def _fail(future: asyncio.Future[list[str]], cause: str) -> None:
    if not future.done():
        future.set_exception(_unhealthy(cause))
        future.exception()  # it may be that nobody waits


def _unhealthy(cause: str) -> PoolUnhealthy:
    return PoolUnhealthy(f"workers do not start: {cause}", details={"cause": cause})
