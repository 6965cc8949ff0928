"""A child as its parent sees it: what it gets, how it ends, and that nothing of it is left."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import json
import os
import select
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dspex.process import group
from dspex.process import spawn as spawning
from dspex.process.spawn import Child, spawn, spawn_in_thread
from tests.scenes import ROOT, Scene, environment, scene

__all__ = ["scene"]

pytestmark = pytest.mark.anyio


def small(code: int = 0) -> Child:
    """A child that exits with this code."""
    return spawn("tests.children", {"does": "exit", "code": code}, env=environment())


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """Fail when a child or a descriptor is left, shortly after the end."""
    gc.collect()
    open_before, children_before = descriptors(), set(group.children())
    yield
    end = time.monotonic() + 5
    while (new := set(group.children()) - children_before) or descriptors() > open_before:
        if time.monotonic() > end:
            for pid in new:
                group.kill_group(pid)
                group.bury(pid)
            raise AssertionError(f"left: children {new}, descriptors {open_before} → {descriptors()}")
        time.sleep(0.01)


# What it gets


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


def test_a_child_has_the_environment_that_it_was_given() -> None:
    """A caller's secrets would reach a child that was to have none."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as told:
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


# How it ends


@pytest.mark.parametrize("code", [0, 3])
async def test_waiting_gives_the_exit_code_again_and_again(code: int) -> None:
    """A second look at a child would fail, or give another answer."""
    with nothing_left():
        child = small(code)
        assert await asyncio.wait_for(child.wait(), 20) == code
        assert await child.wait() == code
        assert child.bury() == code
        child.kill()
        child.terminate()


async def test_waiting_for_a_child_that_has_ended_already() -> None:
    """A child that was faster than its parent would be waited for for ever."""
    with nothing_left():
        child = small(4)
        assert select.select([child.pidfd], [], [], 20)[0]
        assert await asyncio.wait_for(child.wait(), 5) == 4


async def test_several_may_wait_and_one_may_give_up() -> None:
    """A caller that stops waiting would leave the others waiting, or a descriptor on the loop."""
    with nothing_left():
        child = small(5)
        waiting = [asyncio.ensure_future(child.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        assert await asyncio.wait_for(asyncio.gather(*waiting[1:]), 20) == [5, 5]
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]


async def test_waiting_kills_what_the_child_left(scene: Scene) -> None:
    """A download's or a model server's own children would outlive it."""
    child = scene.start_child("exit", code=7, leaves=True)
    facts = await asyncio.to_thread(scene.facts)
    assert await asyncio.wait_for(child.wait(), 20) == 7
    assert scene.ended(facts["grandchild"])


async def test_the_loop_goes_on_while_it_waits(scene: Scene) -> None:
    """A supervisor that waits for one child would serve no other."""
    child = scene.start_child("stay")
    await asyncio.to_thread(scene.facts)
    waiting = asyncio.ensure_future(child.wait())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 0.05)
    child.kill()
    assert await asyncio.wait_for(waiting, 5) == -9


def test_killing_takes_the_group_along(scene: Scene) -> None:
    """What a child had started would survive the child's kill."""
    child = scene.start_child("stay")
    facts = scene.facts()
    child.kill()
    assert child.bury() == -9
    assert scene.ended(facts["pid"], facts["grandchild"])


def test_terminating_asks_the_child_alone(scene: Scene) -> None:
    """A child could not end tidily, or would be called killed."""
    child = scene.start_child("stay")
    facts = scene.facts()
    child.terminate()
    assert scene.ended(facts["pid"], seconds=5)
    assert scene.alive(facts["grandchild"])
    assert child.bury() == -15
    assert scene.ended(facts["grandchild"])


def test_cutting_the_lifeline_kills(scene: Scene) -> None:
    """A supervisor that lets go of a worker would leave it running."""
    child = scene.start_child("stay")
    facts = scene.facts()
    child._lifeline.cut()
    assert scene.ended(facts["pid"], facts["grandchild"])
    assert child.bury() == -9


# What is left


def test_fifty_children_leave_no_descriptor() -> None:
    """A service that replaces its workers for weeks would run out of descriptors."""
    with nothing_left():
        for _ in range(5):
            for child in [small() for _ in range(10)]:
                assert child.bury() == 0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"arguments": {"does": object()}}, TypeError),
        ({"python": "/nowhere/python"}, FileNotFoundError),
        ({"env": {"A": "nul\0"}}, ValueError),
    ],
)
async def test_a_child_that_cannot_be_started_leaves_nothing(
    options: dict[str, Any], error: type[Exception]
) -> None:
    """Each attempt with a wrong setting would cost two descriptors."""
    with nothing_left():
        with pytest.raises(error):
            spawn("tests.children", **options)
    with nothing_left():
        with pytest.raises(error):
            await spawn_in_thread("tests.children", **options)


def test_a_child_that_cannot_be_watched_is_not_left_running(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit of descriptors, a child that nobody knows of would run on."""

    def full(pid: int) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(os, "pidfd_open", full)
    with nothing_left():
        with pytest.raises(OSError, match="too many"):
            spawn("tests.children", {"does": "stay"}, env=environment())


class Gate:
    """`spawn`, held back until the test lets it go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()
        self.children: list[Child] = []
        monkeypatch.setattr(spawning, "spawn", self._spawn)

    def _spawn(self, module: str, **options: Any) -> Child:
        self.begun.set()
        assert self.open.wait(20)
        self.children.append(spawn(module, **options))
        return self.children[-1]

    async def started(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, 20)


async def test_a_caller_that_gives_up_leaves_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime that is closed while it starts would leave a zygote behind."""
    with nothing_left():
        gate = Gate(monkeypatch)
        starting = asyncio.ensure_future(
            spawn_in_thread("tests.children", arguments={"does": "exit"}, env=environment())
        )
        await gate.started()
        starting.cancel()
        gate.open.set()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert gate.children[0].pidfd == -1, "nobody has buried the child"


async def test_a_caller_that_gives_up_twice_leaves_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that timed out, in a loop that is then torn down, would leave a zygote behind."""
    gate = Gate(monkeypatch)
    starting = asyncio.ensure_future(
        spawn_in_thread("tests.children", arguments={"does": "exit"}, env=environment())
    )
    await gate.started()
    for _ in range(2):
        starting.cancel()
        await asyncio.wait([starting], timeout=0.02)
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    end = time.monotonic() + 5
    while not (gate.children and gate.children[0].pidfd == -1) and time.monotonic() < end:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    try:
        assert gate.children[0].pidfd == -1, "nobody has buried the child"
    finally:
        gate.children[0].bury()


def test_a_loop_that_ends_meanwhile_leaves_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a runtime opens would leave a zygote to a process that lives on, a notebook's kernel."""
    gate = Gate(monkeypatch)

    async def start() -> None:
        await spawn_in_thread("tests.children", arguments={"does": "exit", "code": 0}, env=environment())

    async def leave() -> None:
        starting = asyncio.ensure_future(start())
        await gate.started()
        assert not starting.done()  # asyncio.run cancels it, as it does on Ctrl-C
        threading.Timer(0.05, gate.open.set).start()

    with nothing_left():
        asyncio.run(leave())
        assert len(gate.children) == 1
        try:
            assert gate.children[0].pidfd == -1, "nobody has buried the child"
        finally:
            gate.children[0].kill()
            gate.children[0].bury()


async def test_spawning_in_a_thread_gives_the_child() -> None:
    """A zygote could not be started from the loop."""
    with nothing_left():
        child = await spawn_in_thread(
            "tests.children", arguments={"does": "exit", "code": 6}, env=environment(), python=sys.executable
        )
        assert await asyncio.wait_for(child.wait(), 20) == 6
