"""(b, c) Whole calls: dspex against DSPy in one process, on an instant engine and on a 200 ms provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from bench.measure import Row, fresh, latency, provider, rate, row, side_by_side

SIGNATURE = "question -> answer"
One = Callable[[int], Awaitable[object]]


@asynccontextmanager
async def _dspex(base_url: str | None, workers: int, *, limited: bool = False) -> AsyncIterator[One]:
    import dspex

    # Far above what can be reached: what is measured is the asking.
    most = 10**9
    limits = dspex.Limits(most, most, most) if limited else None
    lm = (
        dspex.LM("bench/instant", engine="bench.instant:AsyncInstant", limits=limits)
        if base_url is None
        else dspex.LM("openai/x", base_url=base_url)
    )
    pools = {"general": dspex.PoolOptions(workers=workers, slots=512)}
    async with dspex.Runtime(lm, pools=pools, settings=dspex.Settings(allow_modules=("bench",))) as runtime:
        adapter = runtime.adapter(timeout=120.0)
        yield lambda number: adapter.agenerate(f"question {number}", signature=SIGNATURE)


@asynccontextmanager
async def _in_process(base_url: str | None, kind: str) -> AsyncIterator[One]:
    import dspy
    from dspy.clients.engines import AsyncLM15Engine, LM15Engine
    from dspy.lm15 import RouterConfig

    from bench.instant import AsyncInstant, Instant

    options: dict[str, Any]
    if base_url is None:
        options = {"model": "bench/instant", "engine": Instant(), "async_engine": AsyncInstant()}
    elif kind == "uncapped":
        key = {"openai-chat": "none"}
        config = RouterConfig(max_connections=512, api_keys=key, base_urls={"openai-chat": base_url})
        options = {"model": "openai/x", "engine": LM15Engine(config), "async_engine": AsyncLM15Engine(config)}
    else:
        options = {"model": "openai/x", "api_key": "none", "api_base": base_url, "engine": "lm15"}
    program = dspy.Predict(SIGNATURE)
    run = dspy.asyncify(program) if kind == "asyncify" else program.acall
    with dspy.context(lm=dspy.LM(cache=False, **options)):
        yield lambda number: run(question=f"question {number}")


async def _measure(kind: str, base_url: str | None, workers: int, at_once: int, calls: int) -> float:
    ours = kind in {"dspex", "limited"}
    context = _dspex(base_url, workers, limited=kind == "limited") if ours else _in_process(base_url, kind)
    async with context as one:
        if at_once == 1:
            await latency(5, one)
            return await latency(calls, one)
        # The asyncify rounds are slow, and warm after a few calls.
        await rate(16 if kind == "asyncify" else at_once, at_once, one)
        return await rate(calls, at_once, one)


def main(kind: str, base_url: str | None, workers: int, at_once: int, calls: int) -> float:
    """Calls per second; with one in flight the median seconds of a call."""
    return asyncio.run(_measure(kind, base_url, workers, at_once, calls))


def _runs(kind: str, at_once: int, calls: int, base_url: str | None = None, workers: int = 2) -> float:
    found = fresh("bench.calls", kind=kind, base_url=base_url, workers=workers, at_once=at_once, calls=calls)
    return float(found)


def instant_rows(rounds: int) -> list[Row]:
    """(b) Everything but the model."""
    rows = []
    for at_once in (1, 64, 256):
        calls = 300 if at_once == 1 else 4000
        runs = side_by_side(
            rounds,
            {
                "stock": partial(_runs, "stock", at_once, calls),
                "one": partial(_runs, "dspex", at_once, calls, workers=1),
                "two": partial(_runs, "dspex", at_once, calls, workers=2),
            },
        )
        if at_once == 1:
            runs = {name: [1 / seconds for seconds in found] for name, found in runs.items()}
        for workers in ("one", "two"):
            bar = ">= 1.8" if (at_once, workers) == (256, "two") else ""
            name = f"instant LM, {at_once} in flight, {workers} worker{'s' * (workers == 'two')} / acall"
            rows.append(row(name, runs[workers], runs["stock"], "/s", bar))
    return rows


def gate_rows(rounds: int) -> list[Row]:
    """What limits cost: each call waits for its permit, and each further request asks."""
    rows = []
    for at_once in (1, 64):
        calls = 1000 if at_once == 1 else 8000
        runs = side_by_side(
            rounds,
            {
                "limited": partial(_runs, "limited", at_once, calls),
                "dspex": partial(_runs, "dspex", at_once, calls),
            },
        )
        if at_once == 1:
            runs = {name: [1 / seconds for seconds in found] for name, found in runs.items()}
        name = f"instant LM with limits, {at_once} in flight / without"
        rows.append(row(name, runs["limited"], runs["dspex"], "/s", ">= 0.95"))
    return rows


def provider_rows(rounds: int) -> list[Row]:
    """(c) A provider that takes 200 ms."""
    rows = []
    with provider(0.2) as base:
        alone = side_by_side(rounds, {kind: partial(_runs, kind, 1, 25, base) for kind in ("dspex", "stock")})
        milli = {kind: [seconds * 1e3 for seconds in runs] for kind, runs in alone.items()}
        rows.append(row("200 ms, 1 in flight, p50 / acall", milli["dspex"], milli["stock"], "ms", "<= 1.03"))
        bars = {"stock": ">= 2.5", "uncapped": ">= 1.4", "asyncify": ">= 10"}
        names = {"stock": "acall", "uncapped": "acall, cap lifted", "asyncify": "dspy.asyncify"}
        for at_once in (64, 256, 512):
            count = {"dspex": at_once * 16, "stock": at_once * 5, "uncapped": at_once * 5, "asyncify": 200}
            runs = side_by_side(
                rounds,
                {kind: partial(_runs, kind, at_once, calls, base) for kind, calls in count.items()},
            )
            for kind, name in names.items():
                bar = bars[kind] if at_once == 256 else ""
                rows.append(
                    row(f"200 ms, {at_once} in flight / {name}", runs["dspex"], runs[kind], "/s", bar)
                )
    return rows
