"""What user code prints: lines from a worker's standard output and error, as log records.

They come by pipes of their own and never touch the channel, so a ``print`` breaks nothing, and what a
worker said before it died is not lost.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable
from typing import Any

from dspex.process import forks

_LONGEST_LINE = 64 * 1024
# Read at a time: a program that prints without end must not hold up the loop. A pipe holds 16 of these.
_BITE = 4096
_PIPE_HOLDS = 17
_TAIL = 20


class Output:
    """Reads one pipe on the running loop until it ends.

    Each line becomes a record of the logger ``dspex.output`` at level INFO, with the attributes
    ``worker``, ``pid`` and ``stream``.

    Args:
        descriptor: The pipe's read end; owned from here on.
        worker: Number of the worker, or ``"zygote"``.
        stream: ``"stdout"`` or ``"stderr"``.
    """

    def __init__(self, descriptor: int, worker: int | str, stream: str) -> None:
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._extra: dict[str, object] = {"worker": worker, "pid": None, "stream": stream}
        self._log = logging.getLogger("dspex.output")
        self._whose: Callable[[], dict[str, Any]] = dict
        self._partial = b""
        self.tail: deque[str] = deque(maxlen=_TAIL)
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self._read)
        forks.guard(self)

    def belongs_to(self, pid: int) -> None:
        """Name the process in the records that follow."""
        self._extra["pid"] = pid

    def of_calls(self, whose: Callable[[], dict[str, Any]]) -> None:
        """Have the records that follow name the calls that the worker runs."""
        self._whose = whose

    def _read(self) -> bool:
        try:
            data = os.read(self._descriptor, _BITE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.close()
            return False
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > _LONGEST_LINE:
            lines.append(self._partial)
            self._partial = b""
        for line in lines:
            self._emit(line)
        return True

    def _emit(self, line: bytes) -> None:
        text = line.decode(errors="backslashreplace")
        self.tail.append(text)
        if self._log.isEnabledFor(logging.INFO):
            self._log.info("%s", text, extra=self._extra | self._whose())

    def read_to_end(self) -> None:
        """Take what a dead process had still written, then close.

        No more than a pipe holds: somebody else may have it open, and write for ever.
        """
        for _ in range(_PIPE_HOLDS):
            if self._descriptor < 0 or not self._read():
                break
        self.close()

    def close(self) -> None:
        """Stop reading. Safe to repeat."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
            if self._partial:
                self._emit(self._partial)
                self._partial = b""

    def close_after_fork(self) -> None:
        """In a forked copy: leave the lines to the process that opened the pipe."""
        forks.close_descriptor(self._descriptor)
        self._descriptor = -1
