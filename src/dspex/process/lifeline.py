"""Nothing outlives its parent, whatever the child is doing and however the parent ended.

A child holds the read end of a pipe of its own whose write end only the parent has. The child asks
the kernel (``F_SETSIG``, ``F_SETOWN``, ``O_ASYNC``) to send SIGKILL to its whole process group when
that pipe hangs up. No thread and no cooperation is needed, so it works inside a C call that holds
the GIL and takes grandchildren of the same group along. ``PR_SET_PDEATHSIG`` is the second line.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import threading

from dspex.process import forks

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


class Lifeline:
    """The parent's end: while it is open the child may live.

    Attributes:
        read_end: Descriptor to hand to the child; close it here with ``handed_over()`` afterwards.
    """

    def __init__(self) -> None:
        self.read_end, self._write_end = os.pipe2(os.O_CLOEXEC)
        forks.guard(self)

    def handed_over(self) -> None:
        """Close this process's copy of the child's end."""
        if self.read_end >= 0:
            os.close(self.read_end)
            self.read_end = -1

    def cut(self) -> None:
        """Close the pipe: the kernel kills the child's group. Harmless when done twice."""
        self.handed_over()
        if self._write_end >= 0:
            os.close(self._write_end)
            self._write_end = -1

    def close_after_fork(self) -> None:
        """In a forked copy of the parent: the copy must not keep the child alive."""
        self.cut()


def arm(read_end: int) -> None:
    """Tie this process's group to the pipe; called by the child, which leads its group.

    Raises:
        SystemExit: The parent was gone before this was called. A writer that died earlier gives no
            signal, so the pipe is asked once.
    """
    fcntl.fcntl(read_end, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(read_end, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(read_end, fcntl.F_SETFL, fcntl.fcntl(read_end, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(read_end, select.POLLHUP)
    if poll.poll(0):
        raise SystemExit(0)


def disarm(read_end: int) -> None:
    """Let go of the pipe: from here on the caller watches its parent by itself."""
    fcntl.fcntl(read_end, fcntl.F_SETFL, fcntl.fcntl(read_end, fcntl.F_GETFL) & ~os.O_ASYNC)
    os.close(read_end)


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when the thread that forked it ends.

    Args:
        parent: The parent's pid as it was before the fork, to notice a parent that is gone already.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("die_with_parent belongs right after a fork, in the main thread")
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def become_subreaper() -> None:
    """Adopt orphaned descendants instead of letting them pass to init, so that they can be found."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}) failed: {os.strerror(error)}")
