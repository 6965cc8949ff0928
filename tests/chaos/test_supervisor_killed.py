"""The supervisor killed outright under load, as the kernel does when memory ends."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes import alive, descendants, lines, until

pytestmark = pytest.mark.chaos

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("again", range(3))
def test_nothing_is_left_of_a_supervisor_killed_under_load(tmp_path: Path, again: int) -> None:
    """If this failed, a service that was killed would leave workers and their children running."""
    mark = tmp_path / f"mark{again}"
    command = [sys.executable, "-m", "tests.chaos.loaded", str(mark)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until(lambda: len(lines(mark)) == 3, 30.0)
        far = int(Path(f"{mark}.far").read_text())
        family = descendants(process.pid)
        # The zygote, four workers, and what three commands have started.
        assert len(family) == 8
        assert far in family
        time.sleep(0.2)  # any moment under load
        started = time.monotonic()
        process.kill()
        process.wait()
        until(lambda: not any(alive(pid) for pid in family), 10.0)
    print(f"the last of {len(family)} was gone after {(time.monotonic() - started) * 1e3:.0f} ms")
