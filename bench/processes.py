"""(d, e, f, g) Workers as processes: how soon a new one answers, what it weighs, and how all of them end."""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench.measure import ROOT, Row, fresh, row

COLD = """
import os, sys, time
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import dspy
from bench.instant import AsyncInstant, Instant
import asyncio
lm = dspy.LM("bench/instant", engine=Instant(), async_engine=AsyncInstant(), cache=False)
program = dspy.Predict("question -> answer")
async def ask(calls):
    with dspy.context(lm=lm, disable_history=True, max_trace_size=0):
        for _ in range(calls):
            await program.acall(question="?")
asyncio.run(ask(int(sys.argv[1])))
print("answered", flush=True)
sys.stdin.read()
"""


def private_bytes(pid: int) -> int:
    """Memory that a process shares with no other."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(kib) * 1024 for kib in re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.MULTILINE))


def _cold(calls: int) -> tuple[float, int]:
    """A process that imports DSPy by itself: seconds to its first answer, private bytes after so many."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", COLD, str(calls)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    seconds = time.perf_counter() - started
    size = private_bytes(process.pid)
    process.kill()
    process.wait()
    return seconds, size


def main(what: str) -> float:
    """One measurement in a fresh interpreter."""
    import dspex

    lm = dspex.LM("bench/instant", engine="bench.instant:AsyncInstant")
    settings = dspex.Settings(allow_modules=("bench",))
    pools = {"general": dspex.PoolOptions(workers=1)}
    with dspex.Runtime(lm, pools=pools, settings=settings) as runtime:
        adapter = runtime.adapter()
        adapter.generate("?", signature="question -> answer")
        (worker,) = runtime.stats().pools["general"].workers
        if what == "memory":
            for _ in range(2000):
                adapter.generate("?", signature="question -> answer")
            return float(private_bytes(worker.pid))
        times = []
        for _ in range(5):
            (worker,) = runtime.stats().pools["general"].workers
            os.kill(worker.pid, signal.SIGKILL)
            started = time.perf_counter()
            # A call to the dead worker is run again by its replacement; one that comes later only by that.
            adapter.generate("?", signature="question -> answer")
            times.append(time.perf_counter() - started)
        return statistics.median(times)


SUPERVISOR = """
import sys, time, dspex
READY = sys.argv[1] == "ready"
if sys.argv[1] == "importing":
    dspex.Runtime(wait=False).open()
else:
    runtime = dspex.Runtime(pools={"general": dspex.PoolOptions(workers=4)}, wait=READY).open()
    while not runtime.stats().pools["general"].workers:
        pass
print("now", flush=True)
time.sleep(60)
"""


def _family(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _orphans(when: str) -> float:
    """Seconds from the SIGKILL of a supervisor to the end of the last process that it had started."""
    import psutil

    process = subprocess.Popen([sys.executable, "-c", SUPERVISOR, when], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    while not (family := _family(process.pid)):
        time.sleep(0.001)
    started = time.perf_counter()
    process.kill()
    process.wait()

    def alive(pid: int) -> bool:
        try:
            return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    while any(alive(pid) for pid in family):
        if time.perf_counter() - started > 30:
            break
        time.sleep(0.001)
    return time.perf_counter() - started


def _import_seconds() -> float:
    code = "import time; t = time.perf_counter(); import dspex; print(time.perf_counter() - t)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(ran.stdout)


def rows(rounds: int) -> list[Row]:
    """Each measured in turn, so many times."""
    replaced, cold, memory, spawned = [], [], [], []
    for _ in range(rounds):
        replaced.append(fresh("bench.processes", what="replace") * 1e3)
        cold.append(_cold(1)[0] * 1e3)
        memory.append(fresh("bench.processes", what="memory") / 1e6)
        spawned.append(_cold(2000)[1] / 1e6)
    imports = [_import_seconds() * 1e3 for _ in range(2 * rounds + 1)]
    found = [
        row("SIGKILL to the replacement's answer / cold process", replaced, cold, "ms", "<= 0.03"),
        row("private memory of a worker after 2,000 calls / spawned", memory, spawned, "MB", "<= 0.25"),
        Row(
            "import dspex", statistics.median(imports), 150.0, "ms", statistics.median(imports) / 150, "<= 1"
        ),
    ]
    for when in ("importing", "forked", "ready"):
        ended = max(_orphans(when) for _ in range(rounds)) * 1e3
        name = f"supervisor SIGKILLed while {when}, to the last process gone"
        found.append(Row(name, ended, 1000.0, "ms", ended / 1000, "<= 1"))
    return found
