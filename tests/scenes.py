"""The processes of one test: what they tell, whether they live, and their end when the test ends."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dspex.process.spawn import Child, spawn

ROOT = Path(__file__).parents[1]


class Scene:
    """See the module."""

    def __init__(self) -> None:
        self.report, self._told = os.pipe()
        self._ordered, self._orders = os.pipe()
        self._data = b""
        self._pidfds: dict[int, int] = {}
        self.parent: subprocess.Popen[bytes] | None = None

    def start_parent(self, does: str, *, copy: str = "", orders: bool = False) -> None:
        """A parent in a process of its own, which spawns a child that does this."""
        told = {"does": does, "report": self._told, "copy": copy}
        if orders:
            told["orders"] = self._ordered
        self.parent = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.children", json.dumps(told)],
            cwd=ROOT,
            env=environment(),
            pass_fds=[self._told, self._ordered],
        )
        self._hand_over()

    def start_child(self, does: str, **arguments: Any) -> Child:
        """A child of this process."""
        child = spawn(
            "tests.children",
            {"does": does, **arguments},
            descriptors={"report": self._told, "orders": self._ordered},
            env=environment(),
        )
        self._hand_over()
        return child

    def _hand_over(self) -> None:
        # From here on the pipe ends when the last process that may tell something is gone.
        os.close(self._told)
        os.close(self._ordered)
        self._told = self._ordered = -1

    def told(self, seconds: float = 20.0) -> dict[str, Any] | None:
        """The next thing that a process tells; None when all who could are gone."""
        while b"\n" not in self._data:
            assert select.select([self.report], [], [], seconds)[0], "nothing was told in time"
            data = os.read(self.report, 65536)
            if not data:
                return None
            self._data += data
        line, _, self._data = self._data.partition(b"\n")
        facts = json.loads(line)
        assert isinstance(facts, dict)
        for pid in [facts.get(name) for name in ("pid", "grandchild", "own", "copy")]:
            if pid is not None:
                self.watch(pid)
        for pid in facts.get("runaways", []):
            self.watch(pid)
        return facts

    def facts(self) -> dict[str, Any]:
        """The next thing that a process tells."""
        facts = self.told()
        assert facts is not None
        return facts

    def order(self, what: bytes) -> None:
        os.write(self._orders, what)

    def watch(self, pid: int) -> None:
        if pid not in self._pidfds:
            with contextlib.suppress(ProcessLookupError, OSError):
                self._pidfds[pid] = os.pidfd_open(pid)

    def ended(self, *pids: int, seconds: float = 1.0) -> bool:
        """Whether all of them have ended within this time."""
        end = time.monotonic() + seconds
        return all(
            pid not in self._pidfds
            or select.select([self._pidfds[pid]], [], [], max(0.0, end - time.monotonic()))[0]
            for pid in pids
        )

    def alive(self, pid: int) -> bool:
        return pid in self._pidfds and not select.select([self._pidfds[pid]], [], [], 0)[0]

    def kill_parent(self) -> None:
        assert self.parent is not None
        self.parent.kill()
        self.parent.wait()

    def close(self) -> None:
        for pidfd in self._pidfds.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
        if self.parent is not None:
            self.kill_parent()
        for descriptor in (self.report, self._orders, self._told, self._ordered):
            if descriptor >= 0:
                os.close(descriptor)


def environment() -> dict[str, str]:
    """This process's own, in which `tests` can be imported."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


@pytest.fixture
def scene() -> Iterator[Scene]:
    """Processes that tell of themselves; all are killed when the test ends."""
    made = Scene()
    yield made
    made.close()
