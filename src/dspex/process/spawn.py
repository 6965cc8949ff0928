"""Start a module of ours as a child with a session, a group and a lifeline of its own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dspex.process import forks
from dspex.process.group import kill_group
from dspex.process.lifeline import Lifeline

_ROOT = str(Path(__file__).parents[2])
# -P keeps the working directory off the front of sys.path; the module is found where this package is.
_BOOT = (
    "import sys, json; sys.path.insert(0, sys.argv[1]); from importlib import import_module; "
    "import_module(sys.argv[2]).main(**json.loads(sys.argv[3]))"
)


class Child:
    """A child process that dies with this one.

    Attributes:
        pid: Its pid, which is its process group too.
        pidfd: Readable once it has exited.
    """

    def __init__(self, process: subprocess.Popen[bytes], lifeline: Lifeline) -> None:
        self._process = process
        self._lifeline = lifeline
        self.pid = process.pid
        self.pidfd = os.pidfd_open(process.pid)
        forks.guard(self)

    async def wait(self) -> int:
        """Wait until it has exited, then reap it and kill what is left of its group.

        Returns:
            The exit code; negative: the signal that ended it.
        """
        if self.pidfd >= 0:
            loop = asyncio.get_running_loop()
            gone = asyncio.Event()
            watched = os.dup(self.pidfd)
            loop.add_reader(watched, gone.set)
            try:
                await gone.wait()
            finally:
                loop.remove_reader(watched)
                os.close(watched)
        return self.bury()

    def bury(self) -> int:
        """Reap it, waiting for its exit, and kill what is left of its group. Safe to repeat."""
        if self._process.returncode is None:
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            kill_group(self.pid)
            self._process.wait()
        self._lifeline.cut()
        forks.close_descriptor(self.pidfd)
        self.pidfd = -1
        return self._process.returncode

    def kill(self) -> None:
        """SIGKILL its whole group."""
        if self._process.returncode is None:
            kill_group(self.pid)

    def cut(self) -> None:
        """Close its lifeline: the kernel kills its group, as if this process had died."""
        self._lifeline.cut()

    def terminate(self) -> None:
        """Ask it to stop (SIGTERM)."""
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGTERM)

    def close_after_fork(self) -> None:
        """In a forked copy of the parent: it is not this process's child."""
        self._process.returncode = 0
        forks.close_descriptor(self.pidfd)
        self.pidfd = -1


def spawn(
    module: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    descriptors: Mapping[str, int] | None = None,
    env: Mapping[str, str] | None = None,
    python: str | None = None,
    stdout: int | None = subprocess.DEVNULL,
    stderr: int | None = None,
) -> Child:
    """Start ``module.main(**arguments, lifeline=fd, **descriptors)`` in a fresh interpreter.

    The child leads a session and a process group of its own, reads nothing from stdin, and has to
    call ``lifeline.arm(lifeline)`` first. Arguments are visible to every user of the machine (``ps``):
    send secrets over a descriptor.

    Args:
        module: Import path of a module of this package.
        arguments: JSON-ready keyword arguments.
        descriptors: Keyword arguments that are open descriptors to pass on.
        env: Its whole environment; None takes over this process's.
        python: The interpreter; None is this one.
        stdout: Descriptor, or one of ``subprocess``'s constants. It is discarded by default.
        stderr: The same; by default it is this process's.
    """
    lifeline = Lifeline()
    passed = {**(descriptors or {}), "lifeline": lifeline.read_end}
    command = boot_command(module, python)
    try:
        process = subprocess.Popen(  # noqa: S603 (an interpreter and a module of ours)
            [*command, json.dumps({**(arguments or {}), **passed})],
            env=None if env is None else dict(env),
            pass_fds=list(passed.values()),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
    except BaseException:
        lifeline.cut()
        raise
    lifeline.handed_over()
    try:
        return Child(process, lifeline)
    except BaseException:  # no descriptor for its pidfd: what cannot be watched must not run
        lifeline.cut()
        process.kill()
        process.wait()
        raise


def boot_command(module: str, python: str | None = None) -> list[str]:
    """What runs ``module.main(**arguments)`` in a fresh interpreter; the arguments follow, as JSON."""
    return [python or sys.executable, "-P", "-c", _BOOT, _ROOT, module]


async def spawn_in_thread(module: str, **options: Any) -> Child:
    """``spawn`` off the event loop. A caller that is cancelled meanwhile leaves no child behind."""
    # A bare future and not a task: a loop that is torn down cancels every task, and the child would be lost.
    starting = asyncio.get_running_loop().run_in_executor(None, functools.partial(spawn, module, **options))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # A callback and not only this wait, which may be cancelled as well.
        starting.add_done_callback(_bury_unwanted)
        await asyncio.wait([starting])
        raise


def _bury_unwanted(starting: asyncio.Future[Child]) -> None:
    if not starting.cancelled() and starting.exception() is None:
        starting.result().kill()
        starting.result().bury()
