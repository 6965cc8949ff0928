"""(h) Large values there and back: ``echo`` against ProcessPoolExecutor, and blobs against frames by size."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from bench.echo import echo
from bench.measure import Row, fresh, row

KiB = 1024
MiB = 1024 * KiB
SWEPT = (64, 128, 192, 240, 256, 384, 512, 1024)


def value(kind: str, size: int) -> Any:
    """Bytes, text, or a list of numbers of this size on the wire."""
    if kind == "bytes":
        return os.urandom(MiB) * (size // MiB) if size >= MiB else os.urandom(size)
    return "dspex..." * (size // 8) if kind == "str" else list(range(1000, 1000 + size // 3))


def _median(calls: int, one: Callable[[], object]) -> float:
    one()
    times = []
    for _ in range(calls):
        started = time.perf_counter()
        one()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _calls(size: int) -> int:
    return max(5, min(200, 64 * MiB // size))


def main(kind: str, size: int = 0, of: str = "bytes") -> Any:
    """Median seconds of one round trip; ``sweep``: for each size with blobs and with frames."""
    if kind == "executor":
        with ProcessPoolExecutor(2) as pool:
            sent = {"value": value(of, size)}
            return _median(_calls(size), lambda: pool.submit(echo, sent).result())
    import dspex

    with dspex.Runtime(pools={"general": dspex.PoolOptions(workers=2)}) as runtime:
        ours = runtime.pool("general")
        if kind == "resident":
            return _resident(lambda: ours.execute("echo", {"value": value("bytes", size)}))
        if kind == "dspex":
            sent = {"value": value(of, size)}
            return _median(_calls(size), lambda: ours.execute("echo", sent))
        return [_both_ways(ours.execute, {"value": value(of, size * KiB)}, size * KiB) for size in SWEPT]


def _both_ways(execute: Callable[[str, Any], Any], sent: Any, size: int) -> list[float]:
    """Seconds as a blob and as frames; the worker sends back what it got in the form in which it came."""
    from dspex.wire import payloads

    found = []
    for threshold in (1, 1 << 40):
        payloads.THRESHOLD = threshold
        found.append(_median(_calls(size), lambda: execute("echo", sent)))
    return found


def _resident(one: Callable[[], object]) -> float:
    """By how many bytes this process, the supervisor's, has grown from the 5th to the 55th call."""
    for _ in range(5):
        one()
    before = _rss()
    for _ in range(50):
        one()
    return float(max(_rss() - before, 1))


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def rows(rounds: int) -> list[Row]:
    """Each measured in turn, so many times."""
    found = []
    for mebibytes in (1, 8, 64):
        runs: dict[str, list[float]] = {"dspex": [], "executor": []}
        for _ in range(rounds):
            for kind, times in runs.items():
                times.append(fresh("bench.large", kind=kind, size=mebibytes * MiB) * 1e3)
        found.append(
            row(
                f"echo of {mebibytes} MiB / ProcessPoolExecutor",
                runs["dspex"],
                runs["executor"],
                "ms",
                "<= 0.5" if mebibytes == 64 else "",
            )
        )
    grown = max(fresh("bench.large", kind="resident", size=64 * MiB) for _ in range(rounds)) / 1e6
    found.append(Row("growth of the supervisor in 50 echoes of 64 MiB", grown, 8.0, "MB", grown / 8, "<= 1"))
    for of in ("bytes", "str", "list"):
        sweeps = [fresh("bench.large", kind="sweep", of=of) for _ in range(rounds)]
        for index, size in enumerate(SWEPT):
            blob, frames = ([sweep[index][way] * 1e6 for sweep in sweeps] for way in (0, 1))
            found.append(row(f"echo of {size} KiB of {of}, as a blob / as frames", blob, frames, "µs"))
    return found
