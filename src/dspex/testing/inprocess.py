"""A runtime whose workers live in the process that opened it."""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dspex.adapter.runtime import Runtime
from dspex.errors import PoolUnhealthy
from dspex.pool.zygote_client import Forkling, Preparation, Zygote
from dspex.process.lifeline import Lifeline
from dspex.settings import Settings
from dspex.telemetry.events import Event
from dspex.wire.messages import WorkerOptions

if TYPE_CHECKING:
    from dspex.worker.main import Worker

# Seconds that calls get to take note of their cancellation.
_LAST_WORDS = 1.0
_preparing = threading.Lock()
_prepared = threading.Event()


@dataclass(frozen=True)
class _Guest(Forkling):
    """A worker that is a guest in this process.

    Attributes:
        leave: Makes it leave.
    """

    leave: Callable[[], object]

    def rss(self) -> int:
        """0: the process is not its own."""
        return 0

    def kill(self) -> None:
        """It is heard no more, and what can be cancelled is; a thread runs on."""
        self.leave()


class _Host:
    """Stands in for a zygote: its workers are tasks on the running loop.

    Args:
        preparation: What the workers have in common; only its preloads matter here.
    """

    def __init__(self, preparation: Preparation) -> None:
        self._preload = preparation.preload
        self._next = 1
        self._guests: dict[asyncio.Task[None], Worker] = {}

    async def fork(self, options: WorkerOptions, on_exit: Callable[[int, int | None], None]) -> Forkling:
        """A new worker, which has yet to say that it is ready.

        Raises:
            PoolUnhealthy: A module to preload cannot be imported.
        """
        try:
            if self._preload or not _prepared.is_set():
                await asyncio.to_thread(_prepare, self._preload)
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            raise PoolUnhealthy(f"workers do not start: {cause}", details={"cause": cause}) from error
        from dspex.worker.main import Worker

        number = self._next
        self._next += 1
        ours, theirs = socket.socketpair()
        worker = Worker(theirs, options)

        async def live() -> None:
            await worker.serve()
            calls = worker.leave()
            on_exit(number, 0)
            if calls:
                await asyncio.wait(calls, timeout=_LAST_WORDS)
            await worker.lms.aclose()

        guest = asyncio.create_task(live())
        self._guests[guest] = worker
        guest.add_done_callback(self._guests.pop)
        # An eventfd in the place of a pidfd, which becomes readable when a process ends: this one never does.
        return _Guest(number, os.getpid(), os.eventfd(0), ours, Lifeline(), (), worker.leave)

    async def aclose(self) -> None:
        """Have all of them leave, and close what they had open."""
        for worker in self._guests.values():
            worker.leave()
        if self._guests:
            await asyncio.wait(list(self._guests))


class InProcessRuntime(Runtime):
    """A ``Runtime`` without processes, for tests: same interface, checks, errors, limits and statistics.

    Its workers are tasks on the runtime's own loop. DSPy is imported into this process when the first one is
    opened, with its caches off; after that a call takes milliseconds. What it cannot do as a ``Runtime``
    does, because there is no process to kill:

    - A deadline stops only what can be cancelled. A thread runs on after its call has ended with
      ``python_timeout``, and holds up the end of this process; code that blocks the loop holds up every call.
    - A crash (``os._exit``, a fault in C code) ends this process.
    - What programs print goes where this process prints, and not to the logger ``dspex.output``.
    - ``Settings(python=...)`` and ``PoolOptions(pass_env=...)`` have no effect.

    Args:
        lm: As of ``Runtime``, and so are the others.
        lms: Profiles by name.
        pools: Options by name.
        settings: What holds for the whole runtime; None reads neither a file nor a default LM, so that a test
            which names no LM fails instead of asking the real one.
        start_timeout: Seconds within which each pool has to be ready.
        wait: Whether opening waits for that.
    """

    @staticmethod
    def _settings() -> Settings:
        return Settings(file=False, default_lm=None)

    @staticmethod
    def _zygote(preparation: Preparation, _emit: Callable[[Event], None]) -> Zygote:
        return _Host(preparation)


def _prepare(preload: Iterable[str]) -> None:
    """What a zygote does before its first fork."""
    with _preparing:
        if not _prepared.is_set():
            from dspex.worker import dspy_compat

            dspy_compat.prepare()
            _prepared.set()
    for module in preload:
        importlib.import_module(module)
