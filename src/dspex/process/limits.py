"""What this machine gives a process, and what a process of ours may take."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def cores() -> int:
    """How many cores may be used: the smaller of the CPU affinity and the cgroup's ``cpu.max``."""
    allowed = len(os.sched_getaffinity(0))
    return max(1, min(allowed, _cgroup_quota() or allowed))


def _cgroup_quota() -> int | None:
    """The cgroup's quota in whole cores, rounded up; None without one (cgroup v2, then v1)."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        return None if quota == "max" else -(-int(quota) // int(period))
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota_us = int((_CGROUP / "cpu/cpu.cfs_quota_us").read_text())
        period_us = int((_CGROUP / "cpu/cpu.cfs_period_us").read_text())
        return None if quota_us <= 0 else -(-quota_us // period_us)
    return None


def resident_bytes(pid: int) -> int:
    """The resident memory of a process in bytes; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


def be_expendable() -> None:
    """Dump no core, and be the first choice when memory runs out: a worker, never its zygote."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        # By descriptor and not by Path: this is on the way to a forked worker's first answer.
        file = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(file, b"500")
        finally:
            os.close(file)


def limit_data(size: int) -> None:
    """Let this process have that many bytes of data: an allocation above it fails, in Python ``MemoryError``.

    The kernel counts what is private and writable (``VmData`` in ``/proc/PID/status``): the heap, what was
    there before the fork, and of each thread its whole stack, 8 MiB where ``ulimit -s`` says nothing else,
    whether it is used or not. A worker may have one thread for each of its slots, and as many again and 16
    for its loop. So whoever wants a worker to fail at some resident size gives that size and a stack for each
    of these threads.

    Args:
        size: Bytes; a process that has more already keeps it, and gets no more.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def pidfds_refused() -> str | None:
    """Why children cannot be watched and killed here; None when they can be.

    An old container runtime's seccomp profile refuses these calls, some sandboxes do not have them, and
    without them no deadline could be kept.
    """
    tried = "pidfd_open"
    try:
        pidfd = os.pidfd_open(os.getpid())
        try:
            tried = "pidfd_send_signal"
            signal.pidfd_send_signal(pidfd, 0)  # 0 asks and sends nothing
        finally:
            os.close(pidfd)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.ENOSYS}:
            raise
        return (
            f"this system refuses {tried} ({error.strerror}); allow pidfd_open and pidfd_send_signal in the "
            "container's seccomp profile, or use a container runtime newer than 2020 and Linux 5.3 or newer"
        )
    return None
