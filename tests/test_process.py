"""Nothing outlives its parent: children, what they started, and what was left when either was killed."""

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

from dspex.process import group
from dspex.process.lifeline import Lifeline
from dspex.process.spawn import Child, spawn

ROOT = Path(__file__).parents[1]


class Scene:
    """Processes of one test: what they tell, whether they live, and their end when the test ends."""

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
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.close()


# A parent that is killed


def test_a_killed_parent_takes_its_child_and_grandchild_along(scene: Scene) -> None:
    """Workers and what they started would run on for ever after a crash of the service."""
    scene.start_parent("stay", orders=True)
    facts = scene.facts()
    assert scene.alive(facts["pid"])
    assert scene.alive(facts["grandchild"])
    scene.kill_parent()
    assert scene.ended(facts["pid"], facts["grandchild"])
    assert scene.told() is None


def test_a_child_that_holds_the_gil_is_killed_as_well(scene: Scene) -> None:
    """A worker in a long call of C code would outlive its supervisor, with a core at full load."""
    scene.start_parent("hold_gil")
    facts = scene.facts()
    used, end = cpu_seconds(facts["pid"]), time.monotonic() + 20
    while cpu_seconds(facts["pid"]) < used + 0.2:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert scene.alive(facts["grandchild"])
    scene.kill_parent()
    assert scene.ended(facts["pid"], facts["grandchild"])


def test_a_child_that_arms_after_its_parent_died_ends(scene: Scene) -> None:
    """A child that was slow to start would wait for ever for a parent that is gone."""
    scene.start_parent("arm_late")
    child = scene.facts()["pid"]
    scene.kill_parent()
    assert scene.told() is None  # it ended without having said that it was armed
    assert scene.ended(child)


def test_a_child_that_disarmed_lives_on(scene: Scene) -> None:
    """A zygote would be killed before it has swept what its workers started."""
    scene.start_parent("disarm")
    scene.facts()
    scene.kill_parent()
    assert scene.told() == {"alive": True}


def test_the_second_line_kills_with_the_parent(scene: Scene) -> None:
    """A worker would outlive a zygote that was killed, while the supervisor keeps its lifeline."""
    scene.start_parent("second_line")
    facts = scene.facts()
    assert "main thread" in facts["refused"]
    assert scene.alive(facts["pid"])
    scene.kill_parent()
    assert scene.ended(facts["pid"])


def test_the_second_line_ends_at_once_without_its_parent(scene: Scene) -> None:
    """A worker whose zygote died in the middle of the fork would never hear of it."""
    child = scene.start_child("second_line", parent=os.getppid())
    assert scene.told() is None
    assert child.bury() == 0


# A fork of the parent


def test_a_fork_of_the_parent_does_not_keep_the_child_alive(scene: Scene) -> None:
    """A child of the service (gunicorn, multiprocessing) would hold its workers after it was killed."""
    scene.start_parent("stay", copy="lingers", orders=True)
    told = scene.facts() | scene.facts()
    assert scene.alive(told["pid"])
    scene.kill_parent()
    assert scene.ended(told["pid"], told["grandchild"])
    assert scene.alive(told["copy"])


def test_a_fork_that_ends_the_child_changes_nothing(scene: Scene) -> None:
    """A finished child of the service would kill the workers of its parent."""
    scene.start_parent("stay", copy="ends", orders=True)
    told = scene.facts() | scene.facts()
    assert told["status"] == 0
    scene.order(b"ping")
    assert scene.facts() == {"answer": "ping"}
    assert scene.alive(told["grandchild"])


# What a child gets


def test_a_child_leads_a_session_of_its_own(scene: Scene) -> None:
    """Ctrl-C would kill workers, a `print` would reach the caller's output, the child the caller's stdin."""
    child = scene.start_child("facts")
    facts = scene.facts()
    assert facts["pid"] == facts["session"] == facts["group"] == child.pid
    assert facts["stdin"] == facts["stdout"] == "/dev/null"
    assert facts["safe_path"]
    # Standard streams, the lifeline, report and orders, and the listing itself: nothing of the test's own.
    assert facts["lifeline"] in facts["descriptors"]
    assert len(facts["descriptors"]) == 7
    assert child.bury() == 0


def test_an_expendable_child_dumps_no_core_and_dies_first(scene: Scene) -> None:
    """A crash would write gigabytes, and memory pressure would kill the service in place of a worker."""
    child = scene.start_child("facts")
    facts = scene.facts()
    assert facts["core"][1:] == [0, 0]
    assert facts["oom"] == 500
    assert child.bury() == 0


def test_a_child_has_the_environment_that_it_was_given() -> None:
    """A caller's secrets would reach a child that was to have none."""
    reader, writer = os.pipe()
    with open(reader, "rb") as told:
        child = spawn(
            "tests.children",
            {"does": "facts"},
            descriptors={"report": writer},
            env={"PYTHONPATH": str(ROOT), "ONLY": "this"},
        )
        os.close(writer)
        seen = json.loads(told.read())["environment"]
    assert child.bury() == 0
    assert seen.pop("ONLY") == "this"
    assert seen.keys() <= {"PYTHONPATH", "LC_CTYPE"}


# Groups and strangers


def test_a_subreaper_kills_what_ran_away(scene: Scene) -> None:
    """A `setsid` grandchild, and what it started, would outlive the worker that started it."""
    child = scene.start_child("adopt")
    facts, killed, left = scene.facts(), scene.facts(), scene.facts()
    assert killed == {"killed": 2, "left": [facts["own"]], "again": 0}
    assert left == {"left": []}
    assert scene.ended(*facts["runaways"], facts["own"])
    assert child.bury() == 0


def posix_child(code: str) -> int:
    """A child that nothing here knows, leading a group of its own."""
    return os.posix_spawn(sys.executable, [sys.executable, "-c", code], os.environ, setpgroup=0)


@pytest.mark.parametrize(
    ("code", "status"), [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", -9), ("", 0)]
)
def test_burying_gives_how_a_child_ended(code: str, status: int) -> None:
    """A crash would be taken for an exit, or an exit for a crash."""
    pid = posix_child(code)
    assert group.bury(pid) == status
    assert group.bury(pid) is None
    assert pid not in group.children()


def test_burying_kills_what_the_child_left(scene: Scene) -> None:
    """A program that a worker had started would run on after the worker's crash."""
    child = scene.start_child("exit", code=7, leaves=True)
    facts = scene.facts()
    assert scene.ended(child.pid, seconds=20)
    assert scene.alive(facts["grandchild"])
    assert child.bury() == 7
    assert scene.ended(facts["grandchild"])


def test_killing_a_group_that_is_gone_is_no_error() -> None:
    """A shutdown would fail because a worker had ended by itself."""
    pid = posix_child("")
    group.bury(pid)
    group.kill_group(pid)


def test_a_lifeline_may_be_cut_twice() -> None:
    """A second close would close a descriptor that belongs to somebody else by then."""
    lifeline = Lifeline()
    lifeline.handed_over()
    lifeline.handed_over()
    lifeline.cut()
    reader, writer = os.pipe()
    lifeline.cut()
    lifeline.close_after_fork()
    os.write(writer, b"x")
    assert os.read(reader, 1) == b"x"
    os.close(reader)
    os.close(writer)
