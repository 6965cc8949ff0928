"""A child that is no program of ours dies with this process, whatever it does and however this one ends.

As ``lifeline``, but nothing of it runs in the child: the kernel keeps owner and signal with the pipe, so
the parent can set them from outside, and they last for as long as the child has the pipe's end, which it
does not know of. Nor does it end with a thread of the parent's, as ``PR_SET_PDEATHSIG`` would.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

from dspex.process.lifeline import Lifeline


class Tethered:
    """A command that runs, with a pipe to its stdin and one from its stdout.

    It stays in this process's group, with which it is killed as well.

    Args:
        command: The program's absolute path and its arguments.
        env: Its whole environment.

    Attributes:
        pid: Its pid.
        stdin: Descriptor to write to; it does not block.
        stdout: Descriptor to read from; it does not block.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._lifeline = Lifeline()
        try:
            self._process = subprocess.Popen(  # noqa: S603 (the caller's own command)
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=dict(env),
                cwd="/",
                bufsize=0,
                pass_fds=[self._lifeline.read_end],
            )
        except BaseException:
            self._lifeline.cut()
            raise
        self.pid = self._process.pid
        # The pipe's other end is this process: when that ends, the kernel kills the child.
        fcntl.fcntl(self._lifeline.read_end, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(self._lifeline.read_end, fcntl.F_SETOWN, self.pid)
        flags = fcntl.fcntl(self._lifeline.read_end, fcntl.F_GETFL)
        fcntl.fcntl(self._lifeline.read_end, fcntl.F_SETFL, flags | os.O_ASYNC)
        self._lifeline.handed_over()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.stdin = self._process.stdin.fileno()
        self.stdout = self._process.stdout.fileno()
        os.set_blocking(self.stdin, False)
        os.set_blocking(self.stdout, False)

    def kill(self) -> int:
        """SIGKILL it and reap it; safe to repeat.

        Returns:
            Its exit code; negative: the signal that ended it.
        """
        self._process.kill()
        status = self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._lifeline.cut()
        return status
