"""Nothing outlives its parent, whatever it was doing and however the parent ended."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from dspex.process import group
from dspex.process.lifeline import Lifeline
from tests.scenes import Scene, scene

__all__ = ["scene"]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
