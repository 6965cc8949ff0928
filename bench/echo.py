"""(a) A value there and back: dspex's ``echo`` against ProcessPoolExecutor and pebble, two workers each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from bench.measure import Row, fresh, latency, rate, row

VALUE = {"text": "hello"}


def echo(value: Any) -> Any:
    """What the other pools run."""
    return value


async def _both(one: Callable[[int], Awaitable[object]]) -> list[float]:
    await latency(200, one)
    return [await latency(2000, one), await rate(8000, 64, one)]


async def _dspex() -> list[float]:
    import dspex

    async with dspex.Runtime(pools={"general": dspex.PoolOptions(workers=2)}) as runtime:
        pool = runtime.pool("general")
        return await _both(lambda _: pool.aexecute("echo", VALUE))


async def _executor() -> list[float]:
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(2) as pool:
        return await _both(lambda _: loop.run_in_executor(pool, echo, VALUE))


async def _pebble() -> list[float]:
    from pebble import ProcessPool

    with ProcessPool(max_workers=2) as pool:
        return await _both(lambda _: asyncio.wrap_future(pool.submit(echo, None, VALUE)))


def main(kind: str) -> list[float]:
    """Seconds of one round trip, and calls per second with 64 in flight."""
    return asyncio.run({"dspex": _dspex, "executor": _executor, "pebble": _pebble}[kind]())


def rows(rounds: int) -> list[Row]:
    """Run each in turn, so many times."""
    found: dict[str, list[list[float]]] = {}
    for _ in range(rounds):
        for kind in ("dspex", "executor", "pebble"):
            found.setdefault(kind, []).append(fresh("bench.echo", kind=kind))
    micro = {kind: [run[0] * 1e6 for run in runs] for kind, runs in found.items()}
    per_second = {kind: [run[1] for run in runs] for kind, runs in found.items()}
    return [
        row(
            "echo, p50, 1 in flight / ProcessPoolExecutor", micro["dspex"], micro["executor"], "µs", "<= 0.5"
        ),
        row("echo, p50, 1 in flight / pebble", micro["dspex"], micro["pebble"], "µs"),
        row(
            "echo, 64 in flight / ProcessPoolExecutor",
            per_second["dspex"],
            per_second["executor"],
            "/s",
            ">= 4",
        ),
        row("echo, 64 in flight / pebble", per_second["dspex"], per_second["pebble"], "/s"),
    ]
