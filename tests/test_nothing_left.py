"""However a runtime ends, no process of it is left: closed, forgotten, or its process killed outright."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

import dspex
from tests.processes import alive, descendants, lines, until

ROOT = Path(__file__).parents[1]
SETTINGS = 'dspex.Settings(allow_modules=["tests.stuck"])'


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    with Script(tmp_path) as running:
        yield running


class Script:
    """A Python program in a process of its own, which a test may kill."""

    process: subprocess.Popen[str]

    def __init__(self, folder: Path) -> None:
        self.mark = folder / "mark"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:  # closes its pipes
            self.process.kill()

    def start(self, body: str) -> None:
        text = "import dspex, os, sys, threading, time\nMARK = sys.argv[1]\n" + textwrap.dedent(body)
        self.process = subprocess.Popen(
            [sys.executable, "-c", text, str(self.mark)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def family(self) -> list[int]:
        return descendants(self.process.pid)

    def kill(self) -> float:
        """SIGKILL it; seconds until the last of its family is gone."""
        family = self.family()
        assert family
        started = time.monotonic()
        self.process.kill()
        self.process.wait()
        until(lambda: not any(alive(pid) for pid in family), 5.0)
        return time.monotonic() - started

    def finish(self) -> tuple[str, str]:
        output, errors = self.process.communicate(timeout=30)
        return output, errors


STUCK = f"""
with dspex.Runtime(settings={SETTINGS}, pools={{"general": dspex.PoolOptions(workers=2)}}) as runtime:
    while [worker.state for worker in runtime.stats().pools["general"].workers] != ["ready"] * 2:
        time.sleep(0.001)  # else both calls may go to the first, and the second never run
    call = runtime.pool("general").execute
    threads = [threading.Thread(target=call, args=(COMMAND, ARGS), kwargs={{"timeout": None}}) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


@pytest.mark.parametrize("command", ["sleep", "spin", "hold_gil", "swallow"])
def test_a_killed_supervisor_leaves_no_worker(script: Script, command: str) -> None:
    """If this failed, an out-of-memory kill of a service would leave its workers running for ever."""
    seconds = ', "seconds": 3600' if command == "sleep" else ""
    script.start(f'COMMAND, ARGS = "{command}", {{"mark": MARK{seconds}}}\n' + STUCK)
    until(lambda: len(lines(script.mark)) == 2)
    assert len(script.family()) == 3
    assert script.kill() < 1.0


@pytest.mark.parametrize("setsid", [False, True])
def test_a_killed_supervisor_leaves_no_child_of_a_worker(script: Script, setsid: bool) -> None:
    """If this failed, what programs start would outlive the whole service."""
    args = f'{{"pidfile": MARK + ".pid", "setsid": {setsid}, "mark": MARK}}'
    script.start(f'COMMAND, ARGS = "grandchild", {args}\n' + STUCK)
    until(lambda: len(lines(script.mark)) == 2)
    assert len(script.family()) == 5
    assert script.kill() < 1.0


def test_a_supervisor_killed_while_its_zygote_imports_leaves_nothing(script: Script) -> None:
    """If this failed, a service that is restarted in its first second would leave a process behind."""
    script.start("runtime = dspex.Runtime(wait=False).open()\nprint('open', flush=True)\ntime.sleep(60)")
    until(script.family)
    assert script.kill() < 1.0


def test_a_supervisor_killed_right_after_it_forked_leaves_nothing(script: Script) -> None:
    """If this failed, the moment between a fork and its arming would be a hole."""
    script.start(
        """
        runtime = dspex.Runtime(pools={"general": dspex.PoolOptions(workers=8)}, wait=False).open()
        while not runtime.stats().pools["general"].workers:
            pass
        print("forked", flush=True)
        time.sleep(60)
        """
    )
    assert script.process.stdout is not None
    script.process.stdout.readline()
    assert script.kill() < 1.0


def test_a_program_that_ends_without_closing_leaves_nothing(script: Script) -> None:
    """If this failed, forgetting to close would leak processes."""
    script.start(
        """
        runtime = dspex.Runtime().open()
        print(*[worker.pid for worker in runtime.stats().pools["general"].workers])
        """
    )
    output, errors = script.finish()
    assert script.process.returncode == 0, errors
    assert errors == ""
    until(lambda: not any(alive(int(pid)) for pid in output.split()), 2.0)


def test_an_exception_out_of_with_closes(script: Script) -> None:
    """If this failed, an error in a user's script would hang it or leave workers."""
    script.start(
        """
        with dspex.Runtime() as runtime:
            print(*[worker.pid for worker in runtime.stats().pools["general"].workers])
            raise SystemExit(7)
        """
    )
    output, errors = script.finish()
    assert script.process.returncode == 7, errors
    until(lambda: not any(alive(int(pid)) for pid in output.split()), 2.0)


def test_ctrl_c_in_a_blocking_call_stops_and_leaves_nothing(script: Script) -> None:
    """If this failed, Ctrl-C would not end a script that waits for an answer."""
    script.start(
        f"""
        with dspex.Runtime(settings={SETTINGS}) as runtime:
            try:
                runtime.pool("general").execute("wait", {{"seconds": 3600, "mark": MARK}}, timeout=None)
            except KeyboardInterrupt:
                print("interrupted")
        """
    )
    until(lambda: lines(script.mark))
    family = script.family()
    script.process.send_signal(signal.SIGINT)
    output, errors = script.finish()
    assert output == "interrupted\n", errors
    until(lambda: not any(alive(pid) for pid in family), 2.0)


def test_it_works_from_standard_input_like_a_notebook() -> None:
    """If this failed, a script without a file (a REPL, a notebook, a pipe) could not start workers."""
    text = 'import dspex\nwith dspex.Runtime() as runtime: print(runtime.pool("general").execute("ping"))\n'
    ran = subprocess.run(
        [sys.executable, "-"], input=text, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert ran.stdout == "pong\n", ran.stderr


def test_closing_under_load_leaves_nothing_and_no_descriptor() -> None:
    """If this failed, a service that opens and closes runtimes would run out of descriptors."""

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    counts = []
    for _ in range(4):
        with dspex.Runtime() as runtime:
            runtime.pool("general").execute("ping")
            family = descendants(os.getpid())
        counts.append(descriptors())
        assert not any(alive(pid) for pid in family), "closing waits for the last one"
    assert counts[-1] == counts[1], "the first round may open what stays open"


def test_a_killed_zygote_costs_one_import_and_no_answer() -> None:
    """If this failed, the loss of the process that forks workers would end the pool."""
    with dspex.Runtime(pools={"general": dspex.PoolOptions(workers=2)}) as runtime:
        until(lambda: [w.state for w in runtime.stats().pools["general"].workers] == ["ready"] * 2)
        before = {worker.pid for worker in runtime.stats().pools["general"].workers}
        (zygote,) = set(descendants(os.getpid())) - before
        os.kill(zygote, signal.SIGKILL)
        until(lambda: not any(alive(pid) for pid in before))
        assert runtime.pool("general").execute("ping", timeout=30) == "pong"
        until(lambda: [w.state for w in runtime.stats().pools["general"].workers] == ["ready"] * 2)
