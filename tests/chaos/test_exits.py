"""What the whole process goes through from outside: stopped for a while, with calls running."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes import descendants, lines, until

pytestmark = pytest.mark.chaos

ROOT = Path(__file__).parents[2]
STOPPED = """
import json, sys, time
from concurrent.futures import ThreadPoolExecutor
import dspex
from tests.exits import load

with load.runtime() as runtime, ThreadPoolExecutor() as threads:
    arguments = {"seconds": 20, "mark": sys.argv[1]}
    calls = [
        threads.submit(runtime.pool(pool).execute, command, arguments, timeout=None)
        for pool in ("general", "isolated")
        for command in ("wait", "sleep")
    ]
    said = [call.result() for call in calls]
    pools = runtime.stats().pools.values()
    print(json.dumps({"said": said, "restarts": [pool.restarts for pool in pools]}))
"""


@pytest.mark.parametrize("whole", [False, True], ids=["the supervisor", "all its processes"])
def test_a_process_that_was_stopped_goes_on(tmp_path: Path, whole: bool) -> None:
    """If this failed, a machine that is suspended, or a debugger, would cost every worker and its calls."""
    mark = tmp_path / "mark"
    command = [sys.executable, "-c", STOPPED, str(mark)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            until(lambda: len(lines(mark)) >= 3, 60)
            stopped = [process.pid, *(descendants(process.pid) if whole else [])]
            _signal(stopped, signal.SIGSTOP)
            time.sleep(15)
            _signal(stopped, signal.SIGCONT)
            output, _ = process.communicate(timeout=100)
        finally:
            process.kill()
    assert process.returncode == 0
    told = json.loads(output)
    assert told["said"] == ["waited", "slept"] * 2
    assert not any(told["restarts"])


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        subprocess.run(["kill", f"-{number.value}", str(pid)], check=True)
