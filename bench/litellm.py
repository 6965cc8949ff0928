"""(e) Calls through LiteLLM: dspex's workers against DSPy in one process, on a provider that takes 200 ms."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from bench.measure import Row, fresh, provider, rate, row, side_by_side

SIGNATURE = "question -> answer"
One = Callable[[int], Awaitable[object]]


@asynccontextmanager
async def _dspex(base_url: str, engine: str | None, workers: int) -> AsyncIterator[One]:
    import dspex

    lm = dspex.LM("openai/x", engine=engine, base_url=base_url)
    pools = {"general": dspex.PoolOptions(workers=workers, slots=512)}
    async with dspex.Runtime(lm, pools=pools) as runtime:
        adapter = runtime.adapter(timeout=120.0)
        yield lambda number: adapter.agenerate(f"question {number}", signature=SIGNATURE)


@asynccontextmanager
async def _in_process(base_url: str) -> AsyncIterator[One]:
    import dspy

    lm = dspy.LM("openai/x", engine="litellm", api_key="none", api_base=base_url, cache=False)
    program = dspy.Predict(SIGNATURE)
    with dspy.context(lm=lm):
        yield lambda number: program.acall(question=f"question {number}")


async def _measure(kind: str, base_url: str, workers: int, at_once: int, calls: int) -> float:
    engine = "litellm" if kind == "dspex" else None
    context = _in_process(base_url) if kind == "stock" else _dspex(base_url, engine, workers)
    async with context as one:
        await rate(at_once, at_once, one)
        return await rate(calls, at_once, one)


def main(kind: str, base_url: str, workers: int, at_once: int, calls: int) -> float:
    """Calls per second."""
    return asyncio.run(_measure(kind, base_url, workers, at_once, calls))


def _runs(kind: str, base_url: str, at_once: int, calls: int) -> float:
    return float(
        fresh("bench.litellm", kind=kind, base_url=base_url, workers=2, at_once=at_once, calls=calls)
    )


def rows(rounds: int) -> list[Row]:
    """64 and 256 calls in flight, two workers."""
    found = []
    with provider(0.2) as base:
        for at_once in (64, 256):
            counts = {"dspex": at_once * 8, "direct": at_once * 8, "stock": at_once * 3}
            runs = side_by_side(
                rounds, {kind: partial(_runs, kind, base, at_once, calls) for kind, calls in counts.items()}
            )
            name = f"200 ms, {at_once} in flight"
            found.append(row(f"{name}, LiteLLM / acall, LiteLLM", runs["dspex"], runs["stock"], "/s"))
            found.append(row(f"{name}, LiteLLM / DSPy's own engine", runs["dspex"], runs["direct"], "/s"))
    return found
