"""(f) MultiChainComparison of five attempts against one request, on a provider that takes 200 ms."""

from __future__ import annotations

import statistics
import time
from typing import Any

from bench.measure import Row, provider, row

SIGNATURE = "question -> answer"
_CALLS = 5


def _seconds(adapter: Any, **asked: Any) -> float:
    took = []
    for number in range(_CALLS):
        started = time.perf_counter()
        adapter.generate(f"question {number}", signature=SIGNATURE, **asked)
        took.append(time.perf_counter() - started)
    return statistics.median(took)


def rows(rounds: int) -> list[Row]:
    """The bar is 2.3 times one request: the attempts side by side, then the comparison."""
    import dspex

    with provider(0.2) as base:
        lm = dspex.LM("openai/x", base_url=base)
        with dspex.Runtime(lm, pools={"general": dspex.PoolOptions(workers=1)}) as runtime:
            adapter = runtime.adapter()
            asked: dict[str, Any] = {"module": "MultiChainComparison", "M": 5}
            adapter.generate("?", signature=SIGNATURE)
            adapter.generate("?", signature=SIGNATURE, **asked)
            one, five = [], []
            for _ in range(rounds):
                one.append(_seconds(adapter) * 1000)
                five.append(_seconds(adapter, **asked) * 1000)
    return [row("MultiChainComparison M=5 / one request, 200 ms provider", five, one, "ms", "<= 2.3")]
