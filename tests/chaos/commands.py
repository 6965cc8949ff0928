"""Commands of an operator's that use up what there is, or get stuck in ways of their own."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import dspex

MiB = 1024 * 1024


@dspex.command("chaos.eat")
def eat(megabytes: int, stay: float = 3600.0) -> int:
    """Take memory bit by bit, and keep it."""
    kept = []
    for _ in range(megabytes):
        kept.append(b"\xff" * MiB)
        time.sleep(0.001)
    time.sleep(stay)
    return len(kept)


@dspex.command("chaos.child")
def child(mark: str) -> int:
    """Wait for a child that never ends."""
    running = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    with Path(mark).open("a") as file:
        file.write(f"{running.pid}\n")
    return running.wait()


@dspex.command("chaos.use_descriptors")
def use_descriptors(seconds: float) -> int:
    """Open files until no more can be opened, keep them for a while, and let go of them."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, most), most))
    opened: list[int] = []
    with contextlib.suppress(OSError):
        while True:
            opened.append(os.open("/dev/null", os.O_RDONLY))
    time.sleep(seconds)
    for descriptor in opened:
        os.close(descriptor)
    return len(opened)


@dspex.command("chaos.write_error")
def write_error(text: str) -> str:
    """Write to where errors go, as a program that warns does."""
    print(text, file=sys.stderr, flush=True)
    return text
