"""(k) Programs whose classes take a while to build: workers that have one built against any worker."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from functools import partial
from typing import Any

from bench.measure import Row, fresh, rate, row, side_by_side

_PROGRAMS, _CALLS = 60, 600


def _signature(number: int) -> dict[str, Any]:
    """One of many programs with an output of twenty fields; they take about 13 ms to build."""
    entry = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}}
    fields = {f"field_{index}": {"type": "array", "items": entry} for index in range(20)}
    answer = {"type": "object", "properties": fields, "title": f"Answer{number}"}
    return {"inputs": [f"question_{number}"], "outputs": {"answer": answer}}


async def _measure(lead: float, workers: int, at_once: int) -> list[float]:
    import dspex
    from dspex.pool import scheduler

    scheduler._LEAD = lead  # type: ignore[assignment]  # what is measured
    lm = dspex.LM("bench/instant", engine="bench.instant:Waiting")
    pools = {"general": dspex.PoolOptions(workers=workers)}
    signatures = [_signature(number) for number in range(_PROGRAMS)]
    numbers = [number % _PROGRAMS for number in range(_CALLS)]
    random.Random(0).shuffle(numbers)
    built: Counter[int] = Counter()
    had: set[tuple[int | None, int]] = set()
    async with dspex.Runtime(lm, pools=pools, settings=dspex.Settings(allow_modules=("bench",))) as runtime:
        adapter = runtime.adapter(timeout=120.0)

        async def one(call: int) -> None:
            number = numbers[call]
            answer = await adapter.agenerate(inputs={f"question_{number}": "x"}, signature=signatures[number])
            built[number] += (answer.worker, number) not in had
            had.add((answer.worker, number))

        found = await rate(_CALLS, at_once, one)
    return [found, float(sum(built.values()))]


def main(lead: float, workers: int, at_once: int) -> list[float]:
    """Calls per second, and how many programs were built."""
    return asyncio.run(_measure(lead, workers, at_once))


def rows(rounds: int) -> list[Row]:
    """With 2 and 4 workers, 4 and 16 calls at once, an LM that takes 50 ms."""
    from dspex.pool.scheduler import _LEAD

    found = []
    for workers in (2, 4):
        for at_once in (4, 16):
            measures: dict[str, Any] = {
                name: partial(fresh, "bench.warmth", lead=lead, workers=workers, at_once=at_once)
                for name, lead in {"warm": _LEAD, "tie": 0}.items()
            }
            runs: dict[str, Any] = side_by_side(rounds, measures)
            where = f"{workers} workers, {at_once} in flight"
            for index, (what, unit) in enumerate([("calls of 60 programs", "/s"), ("programs built", "")]):
                ours, other = ([run[index] for run in runs[name]] for name in ("warm", "tie"))
                bar = "<= 0.9" if unit == "" else ">= 0.9"
                found.append(row(f"{what}, {where} / warm in ties only", ours, other, unit, bar))
    return found
