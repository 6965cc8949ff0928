"""(q) What telemetry costs: echoes and calls of an LM that answers at once, counted and not.

Both runtimes are open in one process and take turns of a fraction of a second, for the machine drifts by more
than what is measured.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import dspex
from bench.measure import Row, fresh, rate, row

SIGNATURE = "question -> answer"
_AT_ONCE = 64
_TURNS = 20
_CALLS = {"echo": 8_000, "instant": 1_500}  # in a turn


def _opened(counted: bool) -> dspex.Runtime:
    lm = dspex.LM("bench/instant", engine="bench.instant:AsyncInstant")
    pools = {"general": dspex.PoolOptions(workers=2, slots=512)}
    settings = dspex.Settings(file=False, allow_modules=("bench",), telemetry=counted)
    return dspex.Runtime(lm, pools=pools, settings=settings)


def _one(runtime: dspex.Runtime, what: str) -> Callable[[int], Awaitable[object]]:
    adapter, pool = runtime.adapter(timeout=120.0), runtime.pool("general")
    if what == "echo":
        return lambda _: pool.aexecute("echo", {"text": "hello"})
    return lambda number: adapter.agenerate(f"question {number}", signature=SIGNATURE)


async def _measure(what: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"on": [], "off": []}
    async with _opened(True) as on, _opened(False) as off:
        ways = {"on": _one(on, what), "off": _one(off, what)}
        for one in ways.values():
            await rate(_CALLS[what] // 2, _AT_ONCE, one)
        for turn in range(_TURNS):
            for name in ("on", "off") if turn % 2 else ("off", "on"):
                found[name].append(await rate(_CALLS[what], _AT_ONCE, ways[name]))
    return found


def main(what: str) -> dict[str, list[float]]:
    """Calls per second of each turn, in a process of its own."""
    return asyncio.run(_measure(what))


def rows(rounds: int) -> list[Row]:
    """At most a quarter of an echo's throughput, and a fiftieth of that of calls."""
    found = []
    for what, bar in (("echo", ">= 0.75"), ("instant", ">= 0.98")):
        runs = [fresh("bench.telemetry", what=what) for _ in range(rounds)]
        on, off = ([speed for run in runs for speed in run[name]] for name in ("on", "off"))
        found.append(row(f"{what}, {_AT_ONCE} in flight, telemetry on / off", on, off, "/s", bar))
    return found
