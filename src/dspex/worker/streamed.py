"""A reply that is told while it comes, and then given whole as any other."""

from __future__ import annotations

from typing import Any

from dspy._vendor.lm15.result import StreamAccumulator
from dspy.clients.engines.lifecycle import aclosing_stream, closing_stream
from dspy.clients.engines.stream_guard import achecked_stream, checked_stream
from dspy.lm15 import response_to_events

from dspex.worker.listening import Reading
from dspex.worker.outflow import Outflow


async def awaited(engine: Any, request: Any, provider: str | None, reading: Reading, stream: Outflow) -> Any:
    """Ask an asynchronous engine that streams."""
    whole = StreamAccumulator(request)
    coming = achecked_stream(engine.stream(request), provider=provider)
    async with aclosing_stream(coming):
        async for event in coming:
            whole.push(event)
            for name, text in reading.pieces(event):
                await stream.delta(name, text)
    return whole.response()


async def told(response: Any, reading: Reading, stream: Outflow) -> Any:
    """Tell a reply that came whole."""
    for event in response_to_events(response):
        for name, text in reading.pieces(event):
            await stream.delta(name, text)
    return response


def blocking(engine: Any, request: Any, provider: str | None, reading: Reading, stream: Outflow) -> Any:
    """Ask a synchronous engine, in a thread; one that knows no streams is told when it has answered."""
    if not hasattr(engine, "stream"):
        response = engine.complete(request)
        for event in response_to_events(response):
            for name, text in reading.pieces(event):
                stream.delta_from_thread(name, text)
        return response
    whole = StreamAccumulator(request)
    with closing_stream(checked_stream(engine.stream(request), provider=provider)) as coming:
        for event in coming:
            whole.push(event)
            for name, text in reading.pieces(event):
                stream.delta_from_thread(name, text)
    return whole.response()
