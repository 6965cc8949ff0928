"""A mixed load with faults for half an hour: ``python -m bench.soak --minutes 30``.

Questions to a provider that is slow, fails, says 429 and hangs; large values; stuck commands and programs;
workers killed every few seconds and the zygote now and then; workers replaced by calls. Memory and
descriptors of all processes go to a file of JSON lines. The exit code says whether all of it is
flat and every error was injected.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import random
import signal
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

import dspex
from bench.measure import ROOT

MB, MiB = 1e6, 1024 * 1024
EVERY = 5.0
#: Errors that a call of a kind may end with; any other was not injected.
EXPECTED = {
    "ask": {"lm_unavailable", "lm_rate_limited"},
    "ask_hanging": {"python_timeout"},
    "large": {"worker_lost"},
    "stuck": {"python_timeout", "worker_lost"},
    "program": {"python_timeout", "worker_lost"},
}
#: Growth that counts as flat, after the first fifth: megabytes an hour of resident memory; open descriptors.
MOST_RSS, MOST_DESCRIPTORS = 24.0, 8


def reply(kind: str, number: int) -> Any:
    """What the provider says to the request of a kind."""
    from tests.provider import delayed, echo, fault, hanging

    if kind == "hanging":
        return hanging()
    slow = delayed(0.05 if number % 10 else 1.0, echo())
    return {7: fault(503), 11: fault(429, retry_after=0.1)}.get(number % 40, slow)


class Load:
    """The callers, what they met, and those who break things under them.

    Args:
        runtime: What is under load.
        programs: Whether users' programs can be run.
    """

    def __init__(self, runtime: dspex.Runtime, *, programs: bool) -> None:
        self.ends: dict[str, Counter[str]] = defaultdict(Counter)
        self.surprises: list[str] = []
        self.injected: Counter[str] = Counter()
        self._runtime = runtime
        self._adapter = runtime.adapter(timeout=60.0)
        self._stop = asyncio.Event()
        self._kinds: list[tuple[str, int, Callable[[int], Awaitable[None]]]] = [
            ("ask", 24, self._ask),
            ("ask_hanging", 1, self._ask_hanging),
            ("large", 2, self._large),
            ("stuck", 1, self._stuck),
        ]
        if programs:
            self._kinds.append(("program", 2, self._program))

    async def run(self, seconds: float) -> None:
        """Keep everything going for so long."""
        callers = [self._caller(kind, one) for kind, count, one in self._kinds for _ in range(count)]
        asyncio.get_running_loop().call_later(seconds, self._stop.set)
        breaking = asyncio.create_task(self._break())
        await asyncio.gather(*callers)
        breaking.cancel()

    async def _caller(self, kind: str, one: Callable[[int], Awaitable[None]]) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            try:
                await one(number)
            except dspex.DspexError as error:
                self.ends[kind][error.code] += 1
                if error.code not in EXPECTED[kind]:
                    self.surprises.append(f"{kind}: {error.code}: {error.message}")
            except Exception as error:  # whatever it is, it was not injected
                self.surprises.append(f"{kind}: {error!r}")
            else:
                self.ends[kind]["ok"] += 1

    async def _ask(self, number: int) -> None:
        answer = await self._adapter.agenerate(f"q{number}")
        if answer.response != f"q{number}":
            raise RuntimeError(f"asked q{number}, answered {answer.response!r}")

    async def _ask_hanging(self, number: int) -> None:
        await self._adapter.agenerate(f"q{number}", lm="hanging", timeout=1.0)

    async def _large(self, number: int) -> None:
        data = bytes([number % 256]) * (number % 8 * MiB + 1)
        back = await self._runtime.pool("general").aexecute("echo", {"data": data}, timeout=60.0)
        if back != {"data": data}:
            raise RuntimeError("a large value came back changed")
        await asyncio.sleep(0.2)

    async def _stuck(self, number: int) -> None:
        self.injected["stuck"] += 1
        command = ("sleep", "spin", "swallow", "hold_gil")[number % 4]
        args = {"seconds": 3600} if command == "sleep" else {}
        await self._runtime.pool("stuck").aexecute(command, args, timeout=1.0)

    async def _program(self, number: int) -> None:
        name = ("Hang", "Echo", "Echo", "Swallow")[number % 4]
        await self._adapter.agenerate(f"q{number}", module=f"tests.chaos.programs:{name}", timeout=5.0)
        await asyncio.sleep(0.2)

    async def _break(self) -> None:
        """Kill a worker every three seconds, and about each minute the zygote in its place."""
        turn = 0
        while True:
            await asyncio.sleep(3.0)
            turn += 1
            workers = self._runtime.stats().pools["general"].workers
            running = [worker.pid for worker in workers if worker.state in {"ready", "busy"} and worker.done]
            if not running:
                continue
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                pid = random.choice(running)
                if turn % 20 == 0:
                    psutil.Process(psutil.Process(pid).ppid()).kill()
                else:
                    os.kill(pid, signal.SIGKILL)
                self.injected["zygote" if turn % 20 == 0 else "worker"] += 1


def sample(runtime: dspex.Runtime) -> dict[str, list[tuple[int, float, int]]]:
    """Pid, resident megabytes and descriptors of the supervisor, the zygotes and the workers."""
    workers = {w.pid for pool in runtime.stats().pools.values() for w in pool.workers}
    found: dict[str, list[tuple[int, float, int]]] = {"supervisor": [], "zygote": [], "worker": []}
    own = psutil.Process()
    for kind, processes in {
        "supervisor": [own],
        "zygote": [child for child in own.children() if "dspex.worker.zygote" in _command(child)],
        "worker": [p for p in own.children(recursive=True) if p.pid in workers],
    }.items():
        for process in processes:
            with contextlib.suppress(psutil.Error):
                found[kind].append((process.pid, process.memory_info().rss / MB, process.num_fds()))
    return found


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def slope(points: Iterable[tuple[float, float]]) -> float:
    """Growth an hour, by least squares; 0 with fewer than three points."""
    times, values = zip(*points, strict=True) if (points := list(points)) else ((), ())
    return statistics.linear_regression(times, values).slope * 3600 if len(set(times)) > 2 else 0.0


async def _sampling(runtime: dspex.Runtime, into: Path, samples: list[dict[str, Any]]) -> None:
    started = time.monotonic()
    with into.open("w") as file:
        while True:
            taken = {"at": round(time.monotonic() - started, 2), **await asyncio.to_thread(sample, runtime)}
            samples.append(taken)
            file.write(json.dumps(taken) + "\n")
            file.flush()
            await asyncio.sleep(EVERY)


def verdict(samples: list[dict[str, Any]], minutes: float) -> tuple[Table, bool]:
    """A row for each kind of process; whether all are flat."""
    table = Table("process", "samples", "RSS first", "RSS last", "MB/h", "descriptors", "flat")
    flat = True
    warm = [taken for taken in samples if taken["at"] >= minutes * 60 / 5]
    for kind in ("supervisor", "zygote", "worker"):
        # The mean of those there are: each worker lives for seconds, so growth shows from one to the next.
        means = [(t["at"], statistics.mean(p[1] for p in t[kind])) for t in warm if t[kind]]
        opened = [max(p[2] for p in t[kind]) for t in warm if t[kind]]
        if not means:
            continue
        half = max(1, len(opened) // 2)
        growth = slope(means)
        more = statistics.median(opened[-half:]) - statistics.median(opened[:half])
        # In a short run one process that is just born or dying makes a slope of many megabytes an hour.
        weights = [weight for _, weight in means]
        grown = statistics.median(weights[-half:]) - statistics.median(weights[:half])
        good = (growth <= MOST_RSS or grown <= 3.0) and more <= MOST_DESCRIPTORS
        flat &= good
        table.add_row(
            kind,
            str(len(means)),
            f"{means[0][1]:.1f} MB",
            f"{means[-1][1]:.1f} MB",
            f"{growth:+.1f}",
            f"{opened[0]} to {opened[-1]}, at most {max(opened)}",
            "yes" if good else "NO",
        )
    return table, flat


async def soak(minutes: float, into: Path) -> bool:
    """Load a runtime for so long, print what was seen; whether nothing grew and nothing failed uninvited."""
    from tests.provider import Provider

    console = Console(width=120)
    numbers = iter(range(10**9))
    samples: list[dict[str, Any]] = []
    with (
        Provider(lambda _: reply("usual", next(numbers)), record=False) as provider,
        Provider(lambda _: reply("hanging", 0), record=False) as hanging,
    ):
        lms = {"hanging": dspex.LM("openai/y", base_url=hanging.base_url)}
        lm = dspex.LM("openai/x", base_url=provider.base_url)
        pools = {
            "general": dspex.PoolOptions(workers=3, max_calls=400),
            "stuck": dspex.PoolOptions(workers=1, grace=0.3),
        }
        settings = dspex.Settings(allow_modules=("tests.stuck", "tests.chaos.programs"))
        async with dspex.Runtime(lm, lms=lms, pools=pools, settings=settings) as runtime:
            programs = "isolated" in runtime.stats().pools
            load = Load(runtime, programs=programs)
            sampling = asyncio.create_task(_sampling(runtime, into, samples))
            await load.run(minutes * 60)
            sampling.cancel()
            pools_after = runtime.stats().pools
    table, flat = verdict(samples, minutes)
    console.print(table)
    calls = Table("calls", "ended")
    for kind, ends in load.ends.items():
        calls.add_row(kind, ", ".join(f"{count:,} {code}" for code, count in ends.most_common()))
    calls.add_row("broken on purpose", ", ".join(f"{count} {what}" for what, count in load.injected.items()))
    for name, stats in pools_after.items():
        calls.add_row(f"pool {name}, workers gone", str(stats.restarts or "none"))
    console.print(calls)
    unfinished = sum(stats.unfinished for name, stats in pools_after.items())
    for surprise, count in Counter(load.surprises).most_common(20):
        console.print(f"NOT INJECTED, {count} times: {surprise}", markup=False)
    without = "" if programs else "; programs of users were left out: this pool runs none"
    console.print(f"{len(load.surprises)} errors not injected, {unfinished} calls without an end{without}")
    console.print(f"samples: {into}", style="dim")
    return flat and not load.surprises and not unfinished


def main() -> int:
    """Run it; the exit code says whether all is flat."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long")
    parser.add_argument(
        "--samples", type=Path, default=ROOT / "bench/results/soak.jsonl", help="where to write"
    )
    chosen = parser.parse_args()
    logging.getLogger("dspex").setLevel(logging.CRITICAL)  # thousands of lines about what is done on purpose
    chosen.samples.parent.mkdir(parents=True, exist_ok=True)
    return 0 if asyncio.run(soak(chosen.minutes, chosen.samples)) else 1


if __name__ == "__main__":
    sys.exit(main())
