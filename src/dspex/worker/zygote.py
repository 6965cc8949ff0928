"""The process that has DSPy loaded and forks a worker whenever it is asked.

It is small, runs one thread, and blocks in ``poll``. It imports once, forks in milliseconds, and when a
worker has died it kills and reaps all that the worker had started. When its supervisor is gone it does
that for all of them and exits.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import select
import socket
import sys
import time
import traceback
from pathlib import Path

from dspex.process import group
from dspex.process.lifeline import arm, become_subreaper, disarm
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
    read_by_zygote,
)


def main(*, control: int, supervisor: int, lifeline: int) -> None:
    """Run a zygote; called in a fresh interpreter by ``dspex.process.spawn``.

    Args:
        control: The socket to the supervisor.
        supervisor: A pidfd of the supervisor.
        lifeline: Kills this process if the supervisor dies while it imports.
    """
    arm(lifeline)
    become_subreaper()
    for descriptor in (control, supervisor):
        os.set_inheritable(descriptor, False)
    zygote = Zygote(socket.socket(fileno=control), supervisor)
    if zygote.prepare():
        # From here on the supervisor is watched by poll, so that workers are swept before this ends.
        disarm(lifeline)
        zygote.serve()


class Zygote:
    """One zygote.

    Args:
        control: The socket to the supervisor.
        supervisor: Readable once the supervisor has exited.
    """

    def __init__(self, control: socket.socket, supervisor: int) -> None:
        self._control = control
        self._supervisor = supervisor
        self._workers: dict[int, tuple[int, int]] = {}  # pidfd → number, pid

    def prepare(self) -> bool:
        """Import everything that workers will share; False when that failed and was reported."""
        boot, _ = packets.receive(self._control, read_by_zygote)
        if not isinstance(boot, Boot):
            return False
        if boot.protocol != PROTOCOL:
            self._tell(
                BootFailed(
                    f"the zygote speaks protocol {PROTOCOL} and its supervisor {boot.protocol}: dspex was "
                    "changed while it ran; restart the program"
                )
            )
            return False
        started = time.monotonic()
        try:
            logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
            _take_path(boot)
            threaded = _load(boot.preload)
        except BaseException as error:  # noqa: BLE001 (whatever a preload raises is the cause to tell)
            cause = "".join(traceback.format_exception_only(error)).strip()
            self._tell(BootFailed(cause))
            return False
        if threaded:
            self._tell(BootFailed("a preload started a thread", threaded))
            return False
        self._tell(Booted(PROTOCOL, os.getpid(), time.monotonic() - started))
        return True

    def _tell(
        self, message: Booted | BootFailed | Forked | Exited, descriptors: tuple[int, ...] = ()
    ) -> None:
        # A supervisor that is gone is noticed by poll.
        with contextlib.suppress(OSError):
            packets.send(self._control, message, descriptors)

    def serve(self) -> None:
        """Fork, bury, sweep; returns when the supervisor is gone."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._supervisor, select.POLLIN)
        try:
            while True:
                for descriptor, _event in poll.poll():
                    if descriptor == self._supervisor:
                        return
                    if descriptor == self._control.fileno():
                        if not self._obey(poll):
                            return
                    elif descriptor in self._workers:
                        poll.unregister(descriptor)
                        self._bury(descriptor)
        finally:
            self._sweep()

    def _obey(self, poll: select.poll) -> bool:
        try:
            message, descriptors = packets.receive(self._control, read_by_zygote)
        except OSError:
            return False
        if not isinstance(message, Fork):
            return False
        pidfd = self._fork(message.worker, message.options, descriptors)
        if pidfd is not None:
            poll.register(pidfd, select.POLLIN)
        return True

    def _fork(self, number: int, options: WorkerOptions, descriptors: list[int]) -> int | None:
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError:  # no process or memory to be had: the supervisor tries again, with a pause
            for descriptor in descriptors:
                os.close(descriptor)
            self._tell(Forked(number, 0))
            return None
        if pid == 0:
            self._become(parent, options, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        pidfd = os.pidfd_open(pid)
        self._workers[pidfd] = (number, pid)
        self._tell(Forked(number, pid), (pidfd,))
        return pidfd

    def _become(self, parent: int, options: WorkerOptions, descriptors: list[int]) -> None:
        from dspex.worker.become import become_worker

        try:
            self._control.close()
            for descriptor in (self._supervisor, *self._workers):
                os.close(descriptor)
            channel, life, output, errors = descriptors
            become_worker(socket.socket(fileno=channel), life, output, errors, parent, options)
        finally:
            os._exit(1)

    def _bury(self, pidfd: int) -> None:
        number, pid = self._workers.pop(pidfd)
        os.close(pidfd)
        status = group.bury(pid)
        # Its replacement need not wait until its orphans are found.
        self._tell(Exited(number, status))
        group.kill_strangers({pid for _, pid in self._workers.values()})

    def _sweep(self) -> None:
        for _, pid in self._workers.values():
            group.kill_group(pid)
        for _, pid in self._workers.values():
            group.bury(pid)
        group.kill_strangers(set())


def _load(preload: list[str]) -> list[str]:
    """Import what workers share; returns the preloads that started threads.

    A fork copies one thread only, and a lock that another one held stays locked for ever. So such a
    module cannot be loaded here: the supervisor starts a new zygote without it, and has it imported in
    each worker.
    """
    from dspex.worker import become, dspy_compat, installed  # noqa: F401 (loaded before workers fork)
    from dspex.worker.sandbox import choose as sandbox

    dspy_compat.prepare()
    installed.encoded()
    sandbox.preload()
    threaded = []
    for module in preload:
        before = _threads()
        importlib.import_module(module)
        if _threads() > before:
            threaded.append(module)
    dspy_compat.freeze()
    return threaded


def _take_path(boot: Boot) -> None:
    """Import what the caller would import: its path first, the working directory last."""
    directory = boot.directory
    with contextlib.suppress(OSError):
        os.chdir(directory)
    wanted = [entry for entry in boot.sys_path if entry and entry != directory]
    own = [entry for entry in sys.path if entry not in wanted]
    sys.path[:] = [*wanted, *own, directory]


def _threads() -> int:
    return sum(1 for _ in Path("/proc/self/task").iterdir())
