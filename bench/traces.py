"""What traces cost: calls with OpenTelemetry's SDK, all kept, none sampled, against calls without."""

from __future__ import annotations

import asyncio
from functools import partial

from bench.measure import Row, fresh, latency, rate, row, side_by_side

SIGNATURE = "question -> answer"


def _set_up(kind: str) -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

    class Nowhere(SpanExporter):
        def export(self, _spans: object) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider(sampler=ALWAYS_ON if kind == "kept" else ALWAYS_OFF)
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    trace.set_tracer_provider(provider)


async def _measure(kind: str, at_once: int, calls: int) -> float:
    import dspex

    if kind != "off":
        _set_up(kind)
    lm = dspex.LM("bench/instant", engine="bench.instant:AsyncInstant")
    pools = {"general": dspex.PoolOptions(workers=2, slots=512)}
    async with dspex.Runtime(lm, pools=pools, settings=dspex.Settings(allow_modules=("bench",))) as runtime:
        adapter = runtime.adapter(timeout=120.0)

        async def one(number: int) -> object:
            return await adapter.agenerate(f"question {number}", signature=SIGNATURE)

        if at_once == 1:
            await latency(5, one)
            return 1 / await latency(calls, one)
        await rate(at_once, at_once, one)
        return await rate(calls, at_once, one)


def main(kind: str, at_once: int, calls: int) -> float:
    """Calls per second."""
    return asyncio.run(_measure(kind, at_once, calls))


def rows(rounds: int) -> list[Row]:
    """An LM that answers at once, so that traces cost more of a call than they ever do with a real one."""
    found = []
    for at_once, calls in ((1, 300), (64, 4000)):
        kinds = ("kept", "unsampled", "off")
        runs = side_by_side(
            rounds,
            {kind: partial(fresh, "bench.traces", kind=kind, at_once=at_once, calls=calls) for kind in kinds},
        )
        name = f"instant LM, {at_once} in flight"
        found.append(row(f"{name}, traced / not", runs["kept"], runs["off"], "/s"))
        found.append(row(f"{name}, traces not sampled / none", runs["unsampled"], runs["off"], "/s"))
    return found
