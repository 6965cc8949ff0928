"""(q) What telemetry costs: echoes and calls of an LM that answers at once, counted and not."""

from __future__ import annotations

import asyncio
from functools import partial

from bench.measure import Row, fresh, rate, row, side_by_side

SIGNATURE = "question -> answer"
_AT_ONCE = 64
_CALLS = {"echo": 20_000, "instant": 6_000}


async def _measure(what: str, counted: bool) -> float:
    import dspex

    lm = dspex.LM("bench/instant", engine="bench.instant:AsyncInstant")
    pools = {"general": dspex.PoolOptions(workers=2, slots=512)}
    settings = dspex.Settings(file=False, allow_modules=("bench",), telemetry=counted)
    async with dspex.Runtime(lm, pools=pools, settings=settings) as runtime:
        adapter, pool = runtime.adapter(timeout=120.0), runtime.pool("general")

        async def one(number: int) -> object:
            if what == "echo":
                return await pool.aexecute("echo", {"text": "hello"})
            return await adapter.agenerate(f"question {number}", signature=SIGNATURE)

        await rate(_CALLS[what] // 10, _AT_ONCE, one)
        return await rate(_CALLS[what], _AT_ONCE, one)


def main(what: str, counted: bool) -> float:
    """Calls per second, in a process of its own."""
    return asyncio.run(_measure(what, counted))


def rows(rounds: int) -> list[Row]:
    """At most a quarter of an echo's throughput, and a fiftieth of that of calls."""
    found = []
    for what, bar in (("echo", ">= 0.75"), ("instant", ">= 0.98")):
        kinds = {
            name: partial(fresh, "bench.telemetry", what=what, counted=name == "counted")
            for name in ("counted", "not")
        }
        runs = side_by_side(rounds, kinds)
        found.append(
            row(f"{what}, {_AT_ONCE} in flight, telemetry on / off", runs["counted"], runs["not"], "/s", bar)
        )
    return found
