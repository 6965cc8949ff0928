"""The gate of one profile: limits by the minute and at once, who goes first, and what a 429 changes."""

from __future__ import annotations

import asyncio
import math
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dspex
from dspex.lm import gate as gate_module
from dspex.lm.gate import FREE, Gate
from dspex.lm.gates import Gates
from dspex.lm.limits import MINUTE, Minute, Permit
from dspex.pool.permits import WorkerPermits
from dspex.types import Limits
from dspex.wire.messages import LmAsk, LmDone

pytestmark = pytest.mark.anyio


class Clock:
    """A clock that a test sets; timers go off when it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(gate_module, "time", clock)
    return clock


class Watched:
    """A gate, and what it told."""

    def __init__(self, limits: Limits | None = None, max_tokens: int | None = None) -> None:
        self.rooms = 0
        self.watches: list[bool] = []
        lm = dspex.LM("openai/x", limits=limits, max_tokens=max_tokens)
        self.gate = Gate(1, lm, "", self._room, lambda _, on: self.watches.append(on))

    def _room(self) -> None:
        self.rooms += 1


def answer(gate: Gate, permit: Permit | None, usage: tuple[int, int] = (10, 5)) -> None:
    assert permit is not None
    gate.settle(permit, sent=math.inf, usage=usage, answered=True)


# Limits


async def test_in_flight_is_never_more_than_its_limit(clock: Clock) -> None:
    """A provider that allows five connections would refuse the sixth."""
    gate = Watched(Limits(in_flight=2)).gate
    first, second = gate.seat(0), gate.seat(0)
    assert first is not None
    assert second is not None
    assert gate.seat(0) is None
    answer(gate, first)
    assert gate.seat(0) is not None


async def test_requests_per_minute_count_from_when_they_were_sent(clock: Clock) -> None:
    """A provider counts arrivals: a permit given early and used late would count in the wrong minute."""
    gate = Watched(Limits(requests_per_minute=2)).gate
    early, late = gate.seat(0), gate.seat(0)
    assert early is not None
    assert late is not None
    gate.settle(early, sent=clock.now, answered=True)
    clock.now += 30
    gate.settle(late, sent=clock.now, answered=True)
    clock.now += 29.9
    assert gate.seat(0) is None
    clock.now += 1.2
    assert gate.seat(0) is not None
    assert gate.seat(0) is None
    clock.now += 30
    assert gate.seat(0) is not None


async def test_tokens_per_minute_count_what_the_provider_counted(clock: Clock) -> None:
    """Estimates alone would let through far more or far less than is allowed."""
    gate = Watched(Limits(tokens_per_minute=1000), max_tokens=100).gate
    first = gate.seat(400)  # 100 + 100 estimated
    answer(gate, first, (800, 150))
    assert gate.seat(400) is None
    clock.now += MINUTE + 2
    assert gate.seat(400) is not None


async def test_a_request_over_the_limit_of_tokens_goes_alone(clock: Clock) -> None:
    """It would wait for ever."""
    gate = Watched(Limits(tokens_per_minute=100)).gate
    small = gate.seat(40)
    assert small is not None
    granted: list[Permit] = []
    gate.ask(5000, granted.append)
    assert not granted
    gate.settle(small, sent=None)
    assert granted


async def test_a_seat_that_was_not_used_is_not_counted(clock: Clock) -> None:
    """Calls that fail before their first request would eat the limit."""
    gate = Watched(Limits(requests_per_minute=1, in_flight=1)).gate
    for _ in range(5):
        permit = gate.seat(0)
        assert permit is not None
        gate.release(permit)


async def test_a_running_call_goes_before_calls_that_have_not_begun(clock: Clock) -> None:
    """New calls would take all permits, and none would ever end."""
    watched = Watched(Limits(in_flight=1))
    gate = watched.gate
    running = gate.seat(0)
    granted: list[Permit] = []
    gate.ask(10, granted.append)
    assert gate.seat(0) is None
    rooms = watched.rooms
    answer(gate, running)
    assert len(granted) == 1
    assert gate.seat(0) is None
    answer(gate, granted[0])
    assert watched.rooms > rooms
    assert gate.seat(0) is not None


async def test_asks_are_answered_in_order_and_those_withdrawn_never(clock: Clock) -> None:
    """A request of a cancelled call would take a permit that nobody gives back."""
    gate = Watched(Limits(in_flight=1)).gate
    running = gate.seat(0)
    granted: list[str] = []
    asks = [gate.ask(1, lambda _, name=name: granted.append(name)) for name in "abc"]  # type: ignore[misc]
    gate.withdraw(asks[1])
    answer(gate, running)
    assert granted == ["a"]
    gate.withdraw(asks[1])
    gate.settle(Permit(0), sent=None)
    assert granted == ["a", "c"]


async def test_room_by_the_clock_is_told_without_another_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue whose minute has passed would sleep until somebody called again."""
    monkeypatch.setattr("dspex.lm.limits.MINUTE", 0.1)
    monkeypatch.setattr("dspex.lm.limits._TRANSIT", 0.0)
    watched = Watched(Limits(requests_per_minute=1))
    answer(watched.gate, watched.gate.seat(0))
    before = watched.rooms
    assert watched.gate.seat(0) is None
    async with asyncio.timeout(10):
        while watched.rooms == before:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert watched.gate.seat(0) is not None


@given(
    limits=st.builds(Limits, st.integers(1, 5), st.integers(50, 500), st.integers(1, 4)),
    steps=st.lists(
        st.tuples(st.sampled_from(["seat", "settle", "lose", "wait"]), st.integers(0, 200)), max_size=60
    ),
)
def test_no_course_of_events_breaks_a_limit(limits: Limits, steps: list[tuple[str, int]]) -> None:
    """One order of events would be enough for a provider to refuse a customer's requests."""
    now, minute = 0.0, Minute(limits)
    open_permits: list[tuple[Permit, float]] = []
    arrived: list[tuple[float, int]] = []
    for kind, amount in steps:
        if kind == "seat" and minute.wait(now, amount) <= 0:
            open_permits.append((minute.take(amount), now))
        elif kind in {"settle", "lose"} and open_permits:
            permit, _ = open_permits.pop(amount % len(open_permits))
            sent = now if kind == "settle" else None
            minute.settle(permit, sent, now, min(amount, permit.tokens))
            if sent is not None:
                arrived.append((sent, min(amount, permit.tokens)))
        elif kind == "wait":
            now += amount
        recent = [tokens for at, tokens in arrived if at > now - MINUTE]
        assert len(recent) + len(open_permits) <= (limits.requests_per_minute or 0)
        reserved = sum(permit.tokens for permit, _ in open_permits)
        assert sum(recent) + reserved <= (limits.tokens_per_minute or 0)
    assert minute.counted(now + 2 * MINUTE) == (
        len(open_permits),
        sum(permit.tokens for permit, _ in open_permits),
    )


# 429


async def test_a_429_halves_what_is_under_way_and_answers_bring_it_back(clock: Clock) -> None:
    """A storm would go on: every call would ask again at the same rate."""
    gate = Watched(Limits(in_flight=8)).gate
    permits = [gate.seat(0) for _ in range(8)]
    for permit in permits:
        assert permit is not None
        gate.settle(permit, sent=clock.now, refused=True, retry_after=2.0)
    assert gate.seat(0) is None, "it waits as long as the provider says"
    clock.now += 2.1
    granted = []
    while (permit := gate.seat(0)) is not None:
        granted.append(permit)
    assert 1 <= len(granted) <= 4
    for _ in range(200):
        answer(gate, granted.pop())
        while (permit := gate.seat(0)) is not None:
            granted.append(permit)
    assert len(granted) == 8


async def test_requests_of_one_crowd_cut_once(clock: Clock) -> None:
    """Hundred refusals at one moment would throttle a profile to one request for minutes."""
    gate = Watched(Limits(in_flight=64)).gate
    permits = [gate.seat(0) for _ in range(64)]
    sent = clock.now
    clock.now += 0.2
    for permit in permits:
        assert permit is not None
        gate.settle(permit, sent=sent, refused=True, retry_after=0.0)
    clock.now += 0.1
    assert sum(gate.seat(0) is not None for _ in range(64)) == 32


async def test_pauses_grow_while_a_provider_that_names_none_refuses(clock: Clock) -> None:
    """A provider without Retry-After would be asked as fast as it refuses."""
    gate = Watched(Limits(in_flight=1)).gate
    waits = []
    for _ in range(6):
        permit = gate.seat(0)
        assert permit is not None
        gate.settle(permit, sent=clock.now, refused=True)
        before = clock.now
        while (permit := gate.seat(0)) is None:
            clock.now += 0.01
        gate.release(permit)
        waits.append(clock.now - before)
    assert waits[-1] > 4 * waits[0]


async def test_a_profile_without_limits_asks_only_while_its_provider_is_busy(clock: Clock) -> None:
    """Either a storm would not slow, or every request would pay for a gate that has nothing to hold."""
    watched = Watched()
    gate = watched.gate
    assert gate.seat(0) is FREE
    for _ in range(7):
        gate.seat(0)
    gate.refused(clock.now, 1.0)
    assert gate.watched
    assert watched.watches == [True]
    assert gate.seat(0) is None
    clock.now += 1.1
    for _ in range(200):
        permit = gate.seat(0)
        if permit is FREE:
            break
        answer(gate, permit)
    assert watched.watches == [True, False]
    assert not gate.watched


# All gates


async def test_equal_profiles_share_a_gate_and_others_do_not() -> None:
    """One customer's limit would be counted twice, or hold another customer."""
    gates = Gates()
    one = dspex.LM("openai/x", api_key="a", limits=Limits(in_flight=1))
    assert gates.of(one) is gates.of(dspex.LM("openai/x", api_key="a", limits=Limits(in_flight=1)))
    assert gates.of(one) is not gates.of(dspex.LM("openai/x", api_key="b", limits=Limits(in_flight=1)))
    assert gates.find(gates.of(one).number) is gates.of(one)


async def test_gates_that_hold_nothing_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service with an LM per customer would grow for ever; one that is in use must stay."""
    monkeypatch.setattr("dspex.lm.gates._GATES_KEPT", 10)
    gates = Gates()
    used = gates.of(dspex.LM("openai/used", limits=Limits(in_flight=1)))
    assert used.seat(0) is not None
    for number in range(50):
        gates.of(dspex.LM(f"openai/{number}"))
    assert len(list(gates)) <= 11
    assert gates.find(used.number) is used
    assert gates.of(dspex.LM("openai/used", limits=Limits(in_flight=1))).seat(0) is None


def test_limits_are_checked() -> None:
    """A limit of zero would hold every call until its deadline."""
    for wrong in ({"in_flight": 0}, {"requests_per_minute": True}, {"tokens_per_minute": 1.5}):
        with pytest.raises(dspex.InvalidOption, match="Limits"):
            dspex.LM("openai/x", limits=Limits(**wrong))
    with pytest.raises(dspex.InvalidOption, match="limits"):
        dspex.LM("openai/x", limits={"in_flight": 5})  # type: ignore[arg-type]


async def test_an_lm_that_was_refused_once_and_is_gone_is_forgotten(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service with an LM per customer would keep each one that was ever refused."""
    monkeypatch.setattr("dspex.lm.gates._GATES_KEPT", 8)
    gates = Gates()
    told: list[bool] = []
    gates.on_watch.append(lambda _, on: told.append(on))
    for number in range(60):
        gates.of(dspex.LM("openai/x", api_key=str(number))).refused(clock.now, 0.0)
        clock.now += 2.0
    assert len(list(gates)) < 45
    clock.now += 100
    for number in range(60):
        gates.of(dspex.LM("openai/other", api_key=str(number)))
    assert len(list(gates)) <= 12
    assert told.count(False) > 40, "workers are told to ask there no more"


async def test_a_gate_that_a_queued_call_holds_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its profile would get a second gate, and the limit would hold twice."""
    monkeypatch.setattr("dspex.lm.gates._GATES_KEPT", 2)
    gates = Gates()
    lm = dspex.LM("openai/x", limits=Limits(in_flight=1))
    held = gates.of(lm)
    for number in range(20):
        gates.of(dspex.LM(f"openai/{number}"))
    assert gates.of(dspex.LM("openai/x", limits=Limits(in_flight=1))) is held
    assert gates.find(held.number) is held


def test_gates_can_be_looked_at_from_another_thread() -> None:
    """Statistics would fail now and then, in a busy service."""
    gates = Gates()
    lms = [dspex.LM("openai/x", api_key=str(number)) for number in range(100)]
    ended = threading.Event()

    def use() -> None:
        while not ended.is_set():
            for lm in lms:
                gates.of(lm)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=use)
    thread.start()
    try:
        for _ in range(300):
            assert len(list(gates)) <= 100
    finally:
        ended.set()
        thread.join()
        sys.setswitchinterval(interval)


# What one worker holds


async def test_nothing_is_granted_to_a_worker_that_is_dead(clock: Clock) -> None:
    """Its asks would get the permits that come back from it, and nobody would give them back again."""
    gates = Gates()
    gate = gates.of(dspex.LM("openai/x", limits=Limits(tokens_per_minute=1000, in_flight=9), max_tokens=10))
    under_way = gate.seat(4 * 700)
    assert under_way is not None
    gone: list[int] = []
    permits = WorkerPermits(gates, lambda go: gone.append(go.ask))
    permits.give_seat(7, gate, gate.seat(0) or under_way)
    permits.asked(LmAsk(1, 1, gate.number, 800))
    permits.asked(LmAsk(2, 2, gate.number, 5))
    assert gate.waiting == 2
    permits.lose(clock.now)
    assert gone == []
    assert (gate.waiting, gate.in_flight) == (0, 1)


async def test_an_answer_without_a_count_keeps_its_estimate(clock: Clock) -> None:
    """A gateway that does not count tokens would be asked without any limit."""
    gates = Gates()
    gate = gates.of(dspex.LM("openai/x", limits=Limits(tokens_per_minute=2000), max_tokens=500))
    permits = WorkerPermits(gates, lambda _: None)
    for call in (1, 2):
        permit = gate.seat(2000)
        assert permit is not None
        permits.give_seat(call, gate, permit)
        record = dspex.LMRequest("x", dspex.Usage(), 0.1, "ok")
        permits.done(LmDone(call, -1, gate.number, clock.now, "ok", None, record), None)
    assert gate.last_minute() == (2, 2000)
    assert gate.seat(2000) is None
