"""The breaker of an endpoint that fails: by itself, in the queue, and at requests of programs that run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

import dspex
from dspex.lm.breaker import Circuit
from tests.processes import until
from tests.provider import Provider, Reply, Request, delayed, echo, fault, hanging

pytestmark = pytest.mark.anyio
ONE = {"general": dspex.PoolOptions(workers=1)}
FAILURES = ["lm_unavailable", "lm_timeout"]
ANSWERS = ["ok", "lm_rate_limited", "lm_auth", "lm_context_window", "lm_invalid_request"]
NEITHER = ["cancelled", "python_error", "budget_exceeded", "lm_circuit_open"]


class Machine(RuleBasedStateMachine):
    """A circuit against a model that keeps everything."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.changes: list[str] = []
        self.circuit = Circuit(
            "there",
            "openai/x",
            dspex.Breaker(failures=3, share=0.5, window=30.0, pause=10.0),
            lambda circuit, _: self.changes.append(circuit.state),
            clock=lambda: self.now,
        )
        self.state = "closed"
        self.ends: list[tuple[float, bool]] = []
        self.until = 0.0
        self.probes = 0

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 10.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(status=st.sampled_from(FAILURES + ANSWERS + NEITHER))
    def a_request_ends_that_had_not_to_ask(self, status: str) -> None:
        self.circuit.ended(status)
        if self.state != "closed" or status in NEITHER:
            return
        self.ends.append((self.now, status in FAILURES))
        recent = [failed for at, failed in self.ends if at > self.now - 30.0]
        if status in FAILURES and sum(recent) >= 3 and sum(recent) * 2 >= len(recent):
            self._opens()

    def _opens(self) -> None:
        self.state, self.until, self.ends = "open", self.now + 10.0, []

    @rule()
    def a_request_asks(self) -> None:
        refusal = self.circuit.refusal()
        if self.state == "closed":
            assert refusal is None
            assert not self.circuit.let_through()
        elif self.now < self.until or self.probes:
            assert refusal is not None
            assert refusal.retryable
            assert refusal.retry_after is not None
            assert refusal.retry_after > 0
        else:
            assert refusal is None
            assert self.circuit.let_through()
            self.state, self.probes = "half_open", 1

    @rule(status=st.sampled_from(FAILURES + ANSWERS + NEITHER))
    def the_one_that_tries_ends(self, status: str) -> None:
        if not self.probes:
            return
        self.circuit.ended(status, probe=True)
        self.probes = 0
        if status in FAILURES:
            self._opens()
        elif status in ANSWERS:
            self.state = "closed"

    @invariant()
    def it_is_where_the_model_is(self) -> None:
        assert self.circuit.state == self.state
        assert self.changes[-1:] in ([], [self.state])


def test_a_breaker_does_as_its_model_does() -> None:
    """If this failed, an endpoint would be left alone that answers, or asked by hundreds while it is down."""
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=150, stateful_step_count=40, deadline=None)
    )


def test_a_half_that_fails_opens_it_and_less_does_not() -> None:
    """If this failed, a busy endpoint with a few errors would be shut, or a dead one asked on."""
    circuit = Circuit("there", "openai/x", dspex.Breaker(), lambda *_: None)
    for _ in range(11):
        circuit.ended("ok")
    for _ in range(10):
        circuit.ended("lm_timeout")
    assert circuit.is_closed
    assert circuit.counted() == (21, 10)
    circuit.ended("lm_unavailable")
    assert not circuit.is_closed


@pytest.mark.parametrize(
    "options",
    [{"failures": 0}, {"share": 0}, {"share": 1.5}, {"window": 0}, {"pause": -1}, {"failures": True}],
)
def test_numbers_that_make_no_breaker_are_refused(options: dict[str, float]) -> None:
    """If this failed, a slip would switch the breaker off, or open it for ever."""
    with pytest.raises(dspex.InvalidOption, match="Breaker"):
        dspex.LM("openai/x", breaker=dspex.Breaker(**options))  # type: ignore[arg-type]
    with pytest.raises(dspex.InvalidOption, match="breaker"):
        dspex.LM("openai/x", breaker=True)  # type: ignore[arg-type]


# With real workers


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


def model(provider: Provider, name: str, **options: object) -> dspex.LM:
    """A profile that asks once; a name of its own is a breaker of its own."""
    known: dict[str, object] = {
        "api_key": "k",
        "retry": dspex.Retry(attempts=1),
        "breaker": dspex.Breaker(failures=3, pause=600.0),
    }
    return dspex.LM(f"openai/{name}", base_url=provider.base_url, **{**known, **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def runtime() -> Iterator[dspex.Runtime]:
    with dspex.Runtime(pools=ONE, settings=dspex.Settings(file=False)) as opened:
        yield opened


def standing(runtime: dspex.Runtime, name: str) -> dspex.BreakerStats:
    [found] = [one for one in runtime.stats().breakers if one.model == f"openai/{name}"]
    return found


async def test_an_endpoint_that_is_down_is_asked_no_more(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, each call would wait for an outage again, and the endpoint get no rest."""
    provider.reply = lambda _: fault(503)
    lm, adapter = model(provider, "down"), runtime.adapter()
    changes: list[dspex.BreakerChanged] = []
    stop = runtime.on(dspex.BreakerChanged, changes.append)
    for _ in range(3):
        with pytest.raises(dspex.LMUnavailable):
            await adapter.agenerate("q", lm=lm)
    before = len(provider.requests)
    with pytest.raises(dspex.LMCircuitOpen) as caught:
        await adapter.agenerate("q", lm=lm)
    error = caught.value
    assert error.retryable
    assert error.retry_after is not None
    assert 0 < error.retry_after <= 600
    assert error.details["endpoint"] == provider.base_url
    assert error.details["model"] == "openai/down"
    with pytest.raises(dspex.LMCircuitOpen):  # another profile of the same endpoint and model
        await adapter.agenerate("q", lm=model(provider, "down", temperature=0.5))
    assert len(provider.requests) == before
    assert standing(runtime, "down").state == "open"
    provider.reply = lambda _: echo()
    assert (await adapter.agenerate("other", lm=model(provider, "up"))).response == "other"
    until(lambda: any(one.model == "openai/down" for one in changes))
    assert [one.state for one in changes if one.model == "openai/down"] == ["open"]
    stop()


async def test_one_request_tries_and_its_answer_ends_the_pause(
    runtime: dspex.Runtime, provider: Provider
) -> None:
    """If this failed, all that waited would fall on an endpoint that has just come back, or nobody ever."""
    provider.reply = lambda _: fault(503)
    lm, adapter = model(provider, "back", breaker=dspex.Breaker(failures=2, pause=0.2)), runtime.adapter()
    for _ in range(2):
        with pytest.raises(dspex.LMUnavailable):
            await adapter.agenerate("q", lm=lm)
    until(lambda: standing(runtime, "back").retry_after is None)
    before, release = len(provider.requests), asyncio.Event()

    def slow(_: Request) -> Reply:
        return delayed(0.2, echo()) if not release.is_set() else echo()

    provider.reply = slow
    calls = [asyncio.create_task(adapter.agenerate(f"q{n}", lm=lm)) for n in range(20)]
    ended = await asyncio.gather(*calls, return_exceptions=True)
    answered = [one for one in ended if isinstance(one, dspex.Response)]
    refused = [one for one in ended if isinstance(one, dspex.LMCircuitOpen)]
    assert len(answered) + len(refused) == 20
    assert answered
    assert len(provider.requests) - before == len(answered)
    assert standing(runtime, "back").state == "closed"
    release.set()
    assert (await adapter.agenerate("after", lm=lm)).response == "after"


async def test_calls_that_wait_in_the_queue_are_told_at_once(
    runtime: dspex.Runtime, provider: Provider
) -> None:
    """If this failed, a call would wait out its deadline for an endpoint that is known to be down."""
    provider.reply = lambda _: hanging()
    lm = model(provider, "queue", limits=dspex.Limits(in_flight=3), timeout=0.5)
    ended = await asyncio.gather(
        *(runtime.adapter(timeout=60.0).agenerate(f"q{n}", lm=lm) for n in range(30)), return_exceptions=True
    )
    codes = [one.code for one in ended if isinstance(one, dspex.DspexError)]
    assert len(codes) == 30
    assert codes.count("lm_timeout") >= 3
    assert codes.count("lm_circuit_open") >= 20
    assert runtime.stats().pools["general"].queued == 0


async def test_a_program_that_runs_gets_it_at_its_next_request(
    runtime: dspex.Runtime, provider: Provider
) -> None:
    """If this failed, retries and later steps of running programs would go on asking a dead endpoint."""
    provider.reply = lambda _: fault(503)
    lm = model(provider, "inside", retry=dspex.Retry(attempts=10, wait=0.01))
    before = len(provider.requests)
    with pytest.raises(dspex.LMCircuitOpen):
        await runtime.adapter().agenerate("q", lm=lm)
    assert len(provider.requests) - before == 3


async def test_without_a_breaker_it_is_asked_each_time(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, who switches the breaker off would have one all the same."""
    provider.reply = lambda _: fault(503)
    lm = model(provider, "none", breaker=None)
    for _ in range(15):
        with pytest.raises(dspex.LMUnavailable):
            await runtime.adapter().agenerate("q", lm=lm)
    assert not [one for one in runtime.stats().breakers if one.model == "openai/none"]
