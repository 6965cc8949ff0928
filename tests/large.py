"""Commands that take, make and garble large values, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspex
from dspex.wire.blobs import Blob
from dspex.wire.frames import WITH_BLOB
from dspex.wire.messages import NOTHING, Ready, Result, encode
from tests.descriptors import memories


@dspex.command("large.size")
def size(value: Any) -> int:
    """How long it is."""
    return len(value)


@dspex.command("large.make")
def make(size: int) -> bytes:
    """That many bytes."""
    return b"m" * size


@dspex.command("large.fail")
def fail(value: Any) -> None:
    """Fail with what was given in the frame."""
    raise ValueError(f"no good: {len(value)}")


@dspex.command("large.wait")
async def wait(value: Any) -> None:
    """Stay until cancelled."""
    await asyncio.sleep(3600)


@dspex.command("large.stay")
def stay(value: Any) -> None:
    """Stay, and ignore that one is cancelled."""
    time.sleep(3600)


@dspex.command("large.die")
def die(value: Any) -> None:
    """End the process."""
    os._exit(3)


@dspex.command("large.memories")
def count() -> int:
    """How many blobs this worker has open."""
    return memories()


@dspex.command("large.hostile")
def hostile(how: str) -> None:
    """Send something that no worker of ours would send, on every socket of the process, and stay."""
    descriptors, announced, message = _HOSTILE[how]()
    body = announced.to_bytes(8, "little") + encode(message)
    flag = 0 if how == "unannounced" else WITH_BLOB
    frame = (len(body[8:] if not flag else body) | flag).to_bytes(4, "little") + (body if flag else body[8:])
    for descriptor in range(3, 64):
        with contextlib.suppress(OSError):
            if str(Path(f"/proc/self/fd/{descriptor}").readlink()).startswith("socket:"):
                with socket.socket(fileno=os.dup(descriptor)) as sock:
                    socket.send_fds(sock, [frame], descriptors) if descriptors else sock.send(frame)
    time.sleep(3600)


def file() -> int:
    """A file that could be cut."""
    with tempfile.TemporaryFile() as opened:
        opened.write(b"x" * 100)
        opened.flush()
        return os.dup(opened.fileno())


def unsealed() -> int:
    """Memory that can still be changed."""
    descriptor = os.memfd_create("hostile", os.MFD_ALLOW_SEALING)
    os.write(descriptor, b"x" * 100)
    return descriptor


def sealed(size: int = 100) -> int:
    """A good blob's descriptor, the caller's to close."""
    blob = Blob.of([b"x" * size])
    return os.dup(blob.fileno())


_RESULT = Result(1, NOTHING)
_HOSTILE: dict[str, Callable[[], tuple[list[int], int, Any]]] = {
    "unsealed": lambda: ([unsealed()], 100, _RESULT),
    "a file": lambda: ([file()], 100, _RESULT),
    "a pipe": lambda: ([os.pipe()[0]], 100, _RESULT),
    "longer than announced": lambda: ([sealed(101)], 100, _RESULT),
    "shorter than announced": lambda: ([sealed(99)], 100, _RESULT),
    "empty": lambda: ([os.memfd_create("x", os.MFD_ALLOW_SEALING)], 0, _RESULT),
    "over the limit": lambda: ([sealed()], 1 << 60, _RESULT),
    "missing": lambda: ([], 100, _RESULT),
    "two": lambda: ([sealed(), sealed()], 100, _RESULT),
    "many": lambda: ([sealed() for _ in range(50)], 100, _RESULT),
    "unannounced": lambda: ([sealed()], 100, _RESULT),
    "with another message": lambda: ([sealed()], 100, Ready(2)),
}
