"""(n) Streams: how soon the first piece of an answer is there, against DSPy's own in the same process."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

from bench.measure import Row, fresh, provider, row

SIGNATURE = "question -> answer"
_CALLS = 40
# As a quick provider does: 20 ms until it begins, then a word every 10.
_BEGINS, _PAUSE = 0.02, 0.01


def main(base: str, how: str) -> float:
    """Median milliseconds to the first piece of an answer, in a process of its own."""
    return asyncio.run(_ours(base) if how == "ours" else _theirs(base))


async def _ours(base: str) -> float:
    import dspex

    times = []
    pools = {"general": dspex.PoolOptions(workers=1)}
    async with dspex.Runtime(dspex.LM("openai/x", base_url=base), pools=pools) as runtime:
        adapter = runtime.adapter()
        for number in range(_CALLS + 5):
            begun = time.perf_counter()
            async with adapter.astream(f"question {number}", signature=SIGNATURE) as stream:
                first = 0.0
                async for event in stream:
                    if isinstance(event, dspex.Delta) and not first:
                        first = time.perf_counter() - begun
                times.append(first)
    return statistics.median(times[5:]) * 1000


async def _theirs(base: str) -> float:
    import dspy

    lm = dspy.LM("openai/x", api_base=base, api_key="k", engine="lm15", cache=False)
    dspy.configure(lm=lm, disable_history=True, max_trace_size=0, warn_on_type_mismatch=False)
    times = []
    for number in range(_CALLS + 5):
        begun = time.perf_counter()
        # Listeners are stateful: both are made for each call, as DSPy says.
        listener: Any = dspy.streaming.StreamListener(signature_field_name="answer")
        streamed = dspy.streamify(dspy.Predict(SIGNATURE), stream_listeners=[listener], is_async_program=True)
        first = 0.0
        # To its end: who leaves DSPy's stream early gets an error of anyio's.
        async for event in streamed(question=f"question {number}"):
            if isinstance(event, dspy.streaming.StreamResponse) and not first:
                first = time.perf_counter() - begun
        times.append(first)
    return statistics.median(times[5:]) * 1000


def rows(rounds: int) -> list[Row]:
    """At most 1.1 times as late as ``dspy.streamify``."""
    ours, theirs = [], []
    with provider(_BEGINS, "--cut", "6", "--pause", str(_PAUSE)) as base:
        for _ in range(rounds):
            ours.append(fresh("bench.streams", base=base, how="ours"))
            theirs.append(fresh("bench.streams", base=base, how="theirs"))
    return [row("first piece of a stream / dspy.streamify in process", ours, theirs, "ms", "<= 1.1")]
