"""(p) The cache: hits a second against DSPy's memory cache, and how many the async interface answers."""

from __future__ import annotations

import asyncio
from functools import partial

from bench.measure import Row, fresh, provider, rate, row, side_by_side

SIGNATURE = "question -> answer"
_PROMPTS = 100
_CALLS, _AT_ONCE = 20_000, 64
#: Hits a second on one core that the async interface has to give.
_LEAST = 10_000.0


def main(base: str, how: str) -> float:
    """Hits per second, in a process of its own."""
    return asyncio.run(_ours(base) if how == "ours" else _theirs(base))


async def _ours(base: str) -> float:
    import dspex

    lm = dspex.LM("openai/x", base_url=base, cache=True)
    async with dspex.Runtime(lm, pools={"general": dspex.PoolOptions(workers=1)}) as runtime:
        adapter = runtime.adapter()

        async def ask(number: int) -> None:
            await adapter.agenerate(f"question {number % _PROMPTS}", signature=SIGNATURE)

        await rate(_PROMPTS, _AT_ONCE, ask)
        found = await rate(_CALLS, _AT_ONCE, ask)
        assert runtime.stats().cache.hits >= _CALLS
        return found


async def _theirs(base: str) -> float:
    import dspy

    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    lm = dspy.LM("openai/x", api_base=base, api_key="k", engine="lm15", cache=True)
    dspy.configure(lm=lm, disable_history=True, max_trace_size=0, warn_on_type_mismatch=False)
    predict = dspy.Predict(SIGNATURE)

    async def ask(number: int) -> None:
        await predict.acall(question=f"question {number % _PROMPTS}")

    await rate(_PROMPTS, _AT_ONCE, ask)
    return await rate(_CALLS // 10, _AT_ONCE, ask)


def rows(rounds: int) -> list[Row]:
    """Six times DSPy's, and ten thousand a second."""
    with provider(0.0) as base:
        runs = side_by_side(
            rounds, {how: partial(fresh, "bench.cache", base=base, how=how) for how in ("ours", "theirs")}
        )
    hits = sorted(runs["ours"])[len(runs["ours"]) // 2]
    return [
        row(
            "hits of the cache / DSPy's memory cache, in process", runs["ours"], runs["theirs"], "/s", ">= 6"
        ),
        Row("hits of the cache on the async interface", hits, _LEAST, "/s", hits / _LEAST, ">= 1"),
    ]
