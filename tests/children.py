"""What the tests of `dspex.process` start: children that tell of themselves, and parents that get killed.

`main` is what `spawn("tests.children", {"does": ...})` calls. `python -m tests.children '{...}'` is a parent
that spawns such a child and waits to be killed.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from dspex.process import group, limits
from dspex.process.lifeline import arm, become_subreaper, die_with_parent, disarm
from dspex.process.spawn import spawn

_HOUR = [sys.executable, "-c", "import time; time.sleep(3600)"]


def main(*, does: str, lifeline: int, report: int = -1, orders: int = -1, **arguments: Any) -> None:
    """Do what the name says, and tell of it as lines of JSON on ``report``."""
    for descriptor in (report, orders):
        if descriptor >= 0:
            os.set_inheritable(descriptor, False)
    deeds: dict[str, Callable[..., None]] = {
        "exit": _exit,
        "facts": _facts,
        "stay": _stay,
        "hold_gil": _hold_gil,
        "arm_late": _arm_late,
        "disarm": _disarm,
        "second_line": _second_line,
        "adopt": _adopt,
    }
    deeds[does](lifeline, Told(report, orders), **arguments)


class Told:
    """The way back to the test, and its orders."""

    def __init__(self, report: int, orders: int) -> None:
        self._report = report
        self._orders = orders

    def tell(self, **facts: Any) -> None:
        if self._report >= 0:
            os.write(self._report, json.dumps(facts).encode() + b"\n")

    def obey(self) -> NoReturn:
        """Answer every order, and stay for an hour when nobody gives any."""
        while self._orders >= 0 and (order := os.read(self._orders, 100)):
            self.tell(answer=order.decode())
        time.sleep(3600)
        sys.exit(0)


def _exit(lifeline: int, told: Told, code: int = 0, leaves: bool = False) -> None:
    arm(lifeline)
    if leaves:
        told.tell(pid=os.getpid(), grandchild=subprocess.Popen(_HOUR).pid)
        os._exit(code)
    sys.exit(code)


def _facts(lifeline: int, told: Told) -> None:
    arm(lifeline)
    before = resource.getrlimit(resource.RLIMIT_CORE)
    limits.be_expendable()
    told.tell(
        pid=os.getpid(),
        session=os.getsid(0),
        group=os.getpgrp(),
        stdin=str(Path("/proc/self/fd/0").readlink()),
        stdout=str(Path("/proc/self/fd/1").readlink()),
        safe_path=sys.flags.safe_path,
        descriptors=sorted(int(entry.name) for entry in Path("/proc/self/fd").iterdir()),
        lifeline=lifeline,
        core=[before[0], *resource.getrlimit(resource.RLIMIT_CORE)],
        oom=int(Path("/proc/self/oom_score_adj").read_text()),
        environment=dict(os.environ),
    )


def _stay(lifeline: int, told: Told) -> None:
    arm(lifeline)
    told.tell(pid=os.getpid(), grandchild=subprocess.Popen(_HOUR).pid)
    told.obey()


def _hold_gil(lifeline: int, told: Told) -> None:
    arm(lifeline)
    told.tell(pid=os.getpid(), grandchild=subprocess.Popen(_HOUR).pid)
    re.match(r"(a+)+$", "a" * 64 + "b")  # one call in C, for longer than anybody lives


def _arm_late(lifeline: int, told: Told) -> None:
    told.tell(pid=os.getpid())
    _await_orphanage()
    arm(lifeline)
    told.tell(armed=True)


def _disarm(lifeline: int, told: Told) -> None:
    arm(lifeline)
    disarm(lifeline)
    told.tell(pid=os.getpid())
    _await_orphanage()
    told.tell(alive=True)


def _second_line(lifeline: int, told: Told, parent: int | None = None) -> None:
    refused = ""

    def elsewhere() -> None:
        nonlocal refused
        try:
            die_with_parent(os.getppid())
        except RuntimeError as error:
            refused = str(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    die_with_parent(parent or os.getppid())
    told.tell(pid=os.getpid(), refused=refused)
    time.sleep(3600)


def _adopt(lifeline: int, told: Told) -> None:
    """Have a child of one's own, and a grandchild that runs away with one more."""
    arm(lifeline)
    become_subreaper()
    own = subprocess.Popen(_HOUR)
    runaway = f"import subprocess; print(subprocess.Popen({_HOUR!r}).pid, flush=True); {_HOUR[2]}"
    middle = (
        f"import os, subprocess; p = subprocess.Popen({[*_HOUR[:2], runaway]!r}, stdout=subprocess.PIPE, "
        "start_new_session=True); print(p.pid, p.stdout.readline().decode(), flush=True); os._exit(0)"
    )
    said = subprocess.run([*_HOUR[:2], middle], stdout=subprocess.PIPE, check=True).stdout
    runaways = [int(pid) for pid in said.split()]
    told.tell(pid=os.getpid(), own=own.pid, runaways=runaways)
    _until(lambda: runaways[0] in group.children())
    killed = group.kill_strangers({own.pid})
    told.tell(killed=killed, left=group.children(), again=group.kill_strangers({own.pid}))
    group.kill_strangers(set())
    told.tell(left=group.children())


def _await_orphanage() -> None:
    _until(lambda: os.getppid() != int(os.environ["TEST_PARENT"]))


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        if time.monotonic() > end:
            os._exit(99)
        time.sleep(0.002)


def parent(*, does: str, report: int, orders: int = -1, copy: str = "") -> None:
    """Spawn a child that does something, perhaps fork, and wait to be killed."""
    own = Told(report, -1)
    environment = {**os.environ, "TEST_PARENT": str(os.getpid())}
    descriptors = {"report": report} | ({"orders": orders} if orders >= 0 else {})
    child = spawn("tests.children", {"does": does}, descriptors=descriptors, env=environment)
    if copy:
        forked = os.fork()
        if forked == 0:
            os.close(report)
            if copy == "ends":
                child.kill()
                child.terminate()
                child.bury()
                child.close_after_fork()
                os._exit(0)
            signal.pause()
        if copy == "ends":
            own.tell(status=os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]))
        else:
            own.tell(copy=forked)
    while True:
        signal.pause()


if __name__ == "__main__":
    parent(**json.loads(sys.argv[1]))
