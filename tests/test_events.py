"""Subscribers: what they hear, and that nobody waits for them."""

from __future__ import annotations

import threading

import pytest

import dspex
from dspex.telemetry import bus
from dspex.telemetry.bus import Bus


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
