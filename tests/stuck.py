"""Commands that misbehave, for the tests of what a pool does about it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import dspex


def _mark(path: str | None) -> None:
    """Tell the test that the command runs now."""
    if path is not None:
        with Path(path).open("a") as file:
            file.write(f"{os.getpid()}\n")


@dspex.command("sleep")
def sleep(seconds: float, mark: str | None = None) -> str:
    """Block a thread."""
    _mark(mark)
    time.sleep(seconds)
    return "slept"


@dspex.command("wait")
async def wait(seconds: float, mark: str | None = None, ballast: bytes = b"") -> str:
    """Wait on the loop, as an LM call does."""
    _mark(mark)
    await asyncio.sleep(seconds)
    return "waited"


@dspex.command("spin")
async def spin(mark: str | None = None) -> None:
    """Block the worker's event loop."""
    _mark(mark)
    while True:
        pass


@dspex.command("hold_gil")
def hold_gil(mark: str | None = None) -> None:
    """Stay in a C call that never lets go of the GIL."""
    _mark(mark)
    re.match(r"(a|a)*$", "a" * 64 + "b")


@dspex.command("swallow")
async def swallow(mark: str | None = None) -> None:
    """Refuse to be cancelled."""
    _mark(mark)
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.01)


@dspex.command("die")
def die(status: int = 3) -> None:
    """End the process in the middle of a call."""
    os._exit(status)


@dspex.command("grandchild")
def grandchild(pidfile: str, *, setsid: bool = False, mark: str | None = None) -> int:
    """Start a process of one's own, which would run for an hour, and stay."""
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=setsid
    )
    Path(pidfile).write_text(str(child.pid))
    _mark(mark)
    time.sleep(3600)
    return child.pid


@dspex.command("fork_and_use")
def fork_and_use() -> int:
    """Fork in the middle of a call; the copy ends without a word."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@dspex.command("big")
def big(size: int) -> bytes:
    """Return that many bytes."""
    return b"x" * size


@dspex.command("environment")
def environment() -> dict[str, str]:
    """What the worker sees of the environment."""
    return dict(os.environ)


@dspex.command("import_path")
def import_path() -> list[str]:
    """Where the worker imports from."""
    return sys.path


@dspex.command("threads")
def threads() -> list[str]:
    """Names of the worker's threads."""
    return [thread.name for thread in threading.enumerate()]


@dspex.command("random")
def random_number() -> float:
    """A random number, which must differ from worker to worker."""
    import random

    return random.random()


@dspex.command("exit")
def leave() -> None:
    """Raise SystemExit, as a library that calls sys.exit does."""
    sys.exit(5)


@dspex.command("garble")
def garble() -> None:
    """Write nonsense to every socket of the process, the channel among them, and stay."""
    for descriptor in range(3, 64):
        with contextlib.suppress(OSError):
            if str(Path(f"/proc/self/fd/{descriptor}").readlink()).startswith("socket:"):
                os.write(descriptor, b"\xff" * 64)
    time.sleep(3600)


@dspex.command("odd_error")
def odd_error() -> None:
    """Raise an error of dspex's with details that no message can hold."""
    raise dspex.BudgetExceeded("too dear \ud800", details={"n": 10**30})


@dspex.command("hang_up")
def hang_up() -> None:
    """Close the sending side of every socket, and stay."""
    import socket

    for descriptor in range(3, 64):
        with contextlib.suppress(OSError):
            sock = socket.socket(fileno=os.dup(descriptor))
            sock.shutdown(socket.SHUT_WR)
            sock.close()
    time.sleep(3600)


@dspex.command("chatter")
def chatter(seconds: float) -> None:
    """Print as fast as possible."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sys.stdout.write("\n" * 100)


@dspex.command("hoard")
async def hoard(size: int, seconds: float = 0.0, mark: str | None = None) -> int:
    """Take that much memory, a MiB at a time, and keep it for a while."""
    _mark(mark)
    held = []
    for _ in range(size // 2**20):
        held.append(b"x" * 2**20)
        await asyncio.sleep(0)
    await asyncio.sleep(seconds)
    return len(held)


@dspex.command("pid")
def pid() -> int:
    """Which process this is."""
    return os.getpid()
