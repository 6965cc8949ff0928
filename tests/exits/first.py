"""The first process of a container, which loses its zygote three times and tells which dead are left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from pathlib import Path

import psutil

import dspex
from tests.exits.load import SETTINGS
from tests.processes import lines, until


def others() -> list[str]:
    """Every process of this namespace but this one, dead or not."""
    return [str(process) for process in psutil.process_iter() if process.pid != os.getpid()]


def dead() -> list[str]:
    return [process for process in others() if "zombie" in process]


def call(runtime: dspex.Runtime, arguments: dict[str, object]) -> None:
    with contextlib.suppress(dspex.DspexError):
        runtime.pool().execute("grandchild", arguments, timeout=None)


def main(folder: Path) -> None:
    """Kill the zygote while two workers run calls that have started a process each."""
    two = {"general": dspex.PoolOptions(workers=2, slots=1)}
    with dspex.Runtime(pools=two, settings=SETTINGS) as runtime:
        for turn in range(3):
            until(lambda: [w.state for w in runtime.stats().pools["general"].workers] == ["ready"] * 2, 60)
            mark = folder / f"mark{turn}"
            for number in "ab":
                arguments: dict[str, object] = {"pidfile": f"{mark}.{number}", "mark": str(mark)}
                threading.Thread(target=call, args=(runtime, arguments), daemon=True).start()
            until(lambda: len(lines(mark)) == 2, 30)  # noqa: B023
            worker = runtime.stats().pools["general"].workers[0].pid
            os.kill(psutil.Process(worker).ppid(), signal.SIGKILL)
            lost = 2 * (turn + 1)
            until(lambda: runtime.stats().pools["general"].counters.get("worker_lost") == lost, 60)  # noqa: B023
        with contextlib.suppress(AssertionError):
            until(lambda: not dead())
        corpses = dead()
    print(json.dumps({"pid": os.getpid(), "corpses": corpses, "left": others()}))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
