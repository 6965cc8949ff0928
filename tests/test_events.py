"""Subscribers: what they hear, and that nobody waits for them."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import dspex
from dspex.telemetry import bus
from dspex.telemetry.bus import Bus
from dspex.telemetry.insights import Insights


def progress(done: int) -> dspex.LocalModelProgress:
    return dspex.LocalModelProgress(step="loading", done=done, total=None)


@pytest.mark.anyio
async def test_events_come_in_order_on_a_thread_of_their_own() -> None:
    """If this failed, a log of what happened would be in the wrong order, or a subscriber block the loop."""
    events = Bus()
    heard: list[tuple[int, str]] = []
    events.on(
        dspex.LocalModelProgress, lambda event: heard.append((event.done, threading.current_thread().name))
    )
    for number in range(100):
        events.emit(progress(number))
    await events.aclose()
    assert heard == [(number, "dspex-events") for number in range(100)]
    assert events.dropped == 0


@pytest.mark.anyio
async def test_nobody_waits_for_a_slow_subscriber(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a log on a full disk would stop supervision, or take memory without end."""
    monkeypatch.setattr(bus, "_LAST_WORDS", 0.05)
    events = Bus()
    begun, go_on = threading.Event(), threading.Event()

    def slow(_: dspex.Event) -> None:
        begun.set()
        go_on.wait()

    events.on(dspex.Event, slow)
    events.emit(progress(0))
    assert begun.wait(10)
    for number in range(bus.ROOM + 5):
        events.emit(progress(number))
    assert events.dropped == 5
    await events.aclose()  # returns though the subscriber does not
    assert events.dropped == 5 + bus.ROOM
    go_on.set()


@pytest.mark.anyio
async def test_a_subscriber_that_raises_silences_no_other() -> None:
    """If this failed, one broken metric would end all others."""
    events = Bus()
    heard: list[dspex.Event] = []

    def broken(_: dspex.Event) -> None:
        raise SystemExit

    events.on(dspex.Event, broken)
    end = events.on(dspex.Event, heard.append)
    events.emit(progress(1))
    await events.aclose()
    end()
    end()
    assert (events.failed, heard) == (1, [progress(1)])


def test_without_subscribers_there_is_no_thread() -> None:
    """If this failed, each runtime would have a thread more for what nobody asked for."""
    events = Bus()
    events.on(dspex.WorkerGone, lambda _: None)
    events.emit(progress(1))
    assert events._thread is None


def test_a_subscriber_may_close_the_runtime() -> None:
    """If this failed, a service that gives up when its pool fails would wait for itself."""
    closed = threading.Event()
    with dspex.Runtime(pools={"general": dspex.PoolOptions(workers=1)}) as runtime:

        def give_up(_: dspex.Event) -> None:
            runtime.close()
            closed.set()

        runtime.on(dspex.LocalModelProgress, give_up)
        runtime.core.bus.emit(progress(1))
        assert closed.wait(20)
        with pytest.raises(dspex.PoolClosed):
            runtime.pool().execute("ping")


def test_what_is_no_subscription_is_refused() -> None:
    """If this failed, a mistyped subscription would fail every call from then on."""

    async def later(_: dspex.Event) -> None: ...

    wrong: list[tuple[Any, Any]] = [
        ("CallFinished", print),
        (int, print),
        (None, print),
        (dspex.CallFinished, None),
        (dspex.CallFinished, later),
    ]
    with dspex.Runtime(wait=False) as runtime:
        for kind, function in wrong:
            with pytest.raises(dspex.InvalidOption):
                runtime.on(kind, function)


def test_memory_of_insights_is_bounded() -> None:
    """If this failed, a service whose programs are made on the fly would fill its memory with them."""
    now = [0.0]
    insights = Insights(lambda: now[0])
    for number in range(400):
        for program in range(210):
            insights.hear(
                dspex.CallFinished(
                    request_id="r", pool="p", module="m", tenant="", session_id=None, code="ok",
                    program=f"{number}-{program}", model="x", queued=0.0, run=1.0, lm=1.0, total=1.0,
                    prompt_tokens=1, completion_tokens=1, cost=0.0, attempts=1, requests=1, cached=False,
                )
            )  # fmt: skip
        now[0] += 10
    assert sum(len(slice_) for _, slice_ in insights._slices) <= 20_000
    assert sum(one.calls for one in insights.over(3600)) == 360 * 210
    assert len(insights.over(60)) > 1000
