"""(f) Modules that ask several times: a comparison of five attempts against one request."""

from __future__ import annotations

import asyncio
from functools import partial

from bench.measure import Row, fresh, latency, provider, row, side_by_side

_CALLS = 15


async def _measure(kind: str, base_url: str) -> float:
    import dspex

    lm = dspex.LM("openai/x", base_url=base_url)
    async with dspex.Runtime(lm, pools={"general": dspex.PoolOptions(workers=1)}) as runtime:
        adapter = runtime.adapter()
        module, options = ("MultiChainComparison", {"M": 5}) if kind == "compared" else ("Predict", {})

        async def one(number: int) -> object:
            return await adapter.agenerate(
                f"question {number}", module=module, signature="question -> answer", options=options
            )

        await latency(3, one)
        return await latency(_CALLS, one)


def main(kind: str, base_url: str) -> float:
    """The median seconds of a call."""
    return asyncio.run(_measure(kind, base_url))


def _runs(kind: str, base_url: str) -> float:
    return float(fresh("bench.modules", kind=kind, base_url=base_url))


def rows(rounds: int) -> list[Row]:
    """Five attempts and their comparison, on a provider that answers after 200 ms."""
    with provider(0.2) as base:
        runs = side_by_side(rounds, {kind: partial(_runs, kind, base) for kind in ("compared", "one")})
    milli = {kind: [seconds * 1e3 for seconds in found] for kind, found in runs.items()}
    name = "200 ms, MultiChainComparison of 5, p50 / one request"
    return [row(name, milli["compared"], milli["one"], "ms", "<= 2.3")]
