"""Kill a child together with everything it started, and reap it."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def kill_group(leader: int) -> None:
    """SIGKILL the process group that ``leader`` leads; a group that is gone is no error.

    Call it before the leader is reaped: until then its number cannot belong to somebody else.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def bury(leader: int) -> int | None:
    """Kill the group of a child that has exited, then reap it.

    Returns:
        The exit status as ``os.waitstatus_to_exitcode`` gives it (negative: the signal), or None when
        somebody else reaped it.
    """
    try:
        os.waitid(os.P_PID, leader, os.WEXITED | os.WNOWAIT)
        kill_group(leader)
        return os.waitstatus_to_exitcode(os.waitpid(leader, 0)[1])
    except ChildProcessError:
        return None


#: Leaders of killed groups with members that were not dead yet when they were to be reaped.
_dying: set[int] = set()


def reap_group(leader: int) -> bool:
    """Reap the dead of a killed group, as far as they have become children of this process; none need be one.

    The number stays the group's own until its last member is reaped.

    Returns:
        Whether some are children of this process and not dead yet.
    """
    try:
        while os.waitid(os.P_PGID, leader, os.WEXITED | os.WNOHANG) is not None:
            pass
    except ChildProcessError:
        _dying.discard(leader)
        return False
    _dying.add(leader)
    return True


def reap_dying() -> bool:
    """Reap what ``reap_group`` found not dead yet, as far as it is by now.

    Returns:
        Whether some are still not.
    """
    for leader in list(_dying):
        reap_group(leader)
    return bool(_dying)


def children() -> list[int]:
    """The pids of this process's children, dead ones that are not reaped included."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found += [int(pid) for pid in (task / "children").read_text().split()]
    return found


def kill_strangers(known: frozenset[int] | set[int]) -> int:
    """Kill and reap every child that is not in ``known``: orphans that a subreaper has adopted.

    A stranger's own children become strangers when it dies, so this goes on until none is left.

    Returns:
        How many were killed.
    """
    killed = 0
    while strangers := [pid for pid in children() if pid not in known]:
        for pid in strangers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
            killed += 1
    return killed
