"""The engines that a worker's LMs are built on, against a provider that fails as real ones do."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator

import dspy
import psutil
import pytest

from dspex.types import LMSpec, Retry, Usage
from dspex.worker.lms import LMs
from tests.engines import Asked, built, eventually
from tests.provider import (
    Provider,
    Reply,
    delayed,
    dropped,
    echo,
    fault,
    fields,
    garbage,
    hanging,
    html,
    sequence,
    truncated,
)

pytestmark = pytest.mark.anyio
#: Model, the property with its address, and the header with the key; test_providers.py has them all.
PROVIDERS = [
    ("openai/x", "base_url", "authorization", "Bearer secret-1"),
    ("anthropic/x", "anthropic_url", "x-api-key", "secret-1"),
    ("gemini/x", "gemini_url", "x-goog-api-key", "secret-1"),
]
HOURS = 3600.0


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


@pytest.mark.parametrize(("model", "address", "header", "key"), PROVIDERS)
async def test_nothing_is_taken_from_the_environment(
    provider: Provider,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    address: str,
    header: str,
    key: str,
) -> None:
    """One customer's call would go to another's gateway, or with a key that nobody gave."""
    with Provider() as trap:
        for name in ("OPENAI", "ANTHROPIC", "GEMINI", "GOOGLE"):
            monkeypatch.setenv(f"{name}_API_KEY", "trap-key")
            for ending in ("API_BASE", "BASE_URL"):
                monkeypatch.setenv(f"{name}_{ending}", getattr(trap, address))
        async with built(provider, model, base_url=getattr(provider, address)) as asked:
            await asked.ask()
        assert provider.requests[0].headers[header] == key
        async with built(provider, model, base_url=getattr(provider, address), api_key=None) as asked:
            with pytest.raises(dspy.LMNotConfiguredError):
                await asked.ask()
        assert [r.status for r in asked.requests] == ["lm_not_configured"]
        assert len(provider.requests) == 1
        assert trap.requests == []


async def test_the_embedded_models_server_is_asked_without_a_key(provider: Provider) -> None:
    """``lm="local"`` would ask for a key, have a price that nobody bills, or get no schema."""
    async with built(provider, "local/model", api_key="none", temperature=0.0, max_tokens=9) as asked:
        assert await asked.ask(dspy.JSONAdapter()) == "Where?"
    body = provider.requests[0].body
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("model", 0.0, 9)
    assert body["response_format"]["type"] == "json_schema"
    assert asked.requests[0].cost == 0.0


async def test_parameters_of_the_profile_are_sent(provider: Provider) -> None:
    """What a profile says of sampling would be lost."""
    params = {"top_p": 0.5, "stop": ["END"], "seed": 7}
    async with built(provider, temperature=0.25, max_tokens=99, params=params) as asked:
        await asked.ask()
    body = provider.requests[0].body
    assert (body["temperature"], body["max_completion_tokens"]) == (0.25, 99)
    assert (body["top_p"], body["stop"], body["seed"]) == (0.5, ["END"], 7)


# Retries


async def test_a_providers_own_wait_is_honoured(provider: Provider) -> None:
    """A provider that says when to come back would be asked before, and refuse again."""
    provider.reply = sequence(fault(429, retry_after=0.25), fields(answer="Paris"))
    async with built(provider, retry=Retry(attempts=2, wait=0.0, max_wait=0.01)) as asked:
        assert await asked.ask() == "Paris"
    first, second = provider.requests
    assert second.at - first.at >= 0.25
    assert [(r.status, r.retries) for r in asked.requests] == [("ok", 1)]
    assert asked.requests[0].seconds >= 0.25


async def test_waits_grow_up_to_the_longest(provider: Provider) -> None:
    """A provider in trouble would be asked again at once, or after minutes."""
    provider.reply = sequence(fault(500), fault(503), dropped(), fields(answer="Paris"))
    async with built(provider, retry=Retry(attempts=4, wait=0.1, max_wait=0.15)) as asked:
        assert await asked.ask() == "Paris"
    at = [request.at for request in provider.requests]
    waits = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert waits[0] >= 0.05
    assert min(waits[1:]) >= 0.075
    assert asked.requests[0].seconds < 30
    assert [(r.status, r.retries) for r in asked.requests] == [("ok", 3)]


@pytest.mark.parametrize(
    ("reply", "error", "status"),
    [
        (fault(500), dspy.LMServerError, "lm_unavailable"),
        (html(502), dspy.LMServerError, "lm_unavailable"),
        (fault(429, retry_after=0), dspy.LMRateLimitError, "lm_rate_limited"),
        (fault(504), dspy.LMTimeoutError, "lm_timeout"),
        (dropped(), dspy.LMTransportError, "lm_unavailable"),
        (truncated(), dspy.LMTransportError, "lm_unavailable"),
    ],
)
async def test_attempts_come_to_an_end(
    provider: Provider, reply: Reply, error: type[Exception], status: str
) -> None:
    """A provider that stays down would be asked for ever, too rarely, or its failure be renamed."""
    provider.reply = lambda _: reply
    async with built(provider, retry=Retry(attempts=3, wait=0.001)) as asked:
        with pytest.raises(error) as caught:
            await asked.ask()
    assert type(caught.value) is error
    assert len(provider.requests) == 3
    assert [(r.status, r.retries, r.usage) for r in asked.requests] == [(status, 2, Usage())]


@pytest.mark.parametrize("reply", [fault(400), fault(401), fault(402), fault(403), fault(404), garbage()])
async def test_what_will_not_pass_is_not_tried_again(provider: Provider, reply: Reply) -> None:
    """A wrong key would be sent three times, and an account be locked."""
    provider.reply = lambda _: reply
    async with built(provider, retry=Retry(attempts=3, wait=0.001)) as asked:
        with pytest.raises(dspy.LMError):
            await asked.ask()
    assert len(provider.requests) == 1
    assert asked.requests[0].retries == 0


async def test_no_wait_goes_past_the_deadline(provider: Provider) -> None:
    """A call would wait for its death, in place of saying at once that the provider is busy."""
    provider.reply = lambda _: fault(429, retry_after=HOURS)
    started = time.monotonic()
    async with built(provider, retry=Retry(attempts=3), deadline=started + 20) as asked:
        with pytest.raises(dspy.LMRateLimitError) as caught:
            await asked.ask()
    assert vars(caught.value)["retry_after"] == HOURS
    assert time.monotonic() - started < 10
    assert len(provider.requests) == 1


# Time


@pytest.mark.parametrize("attempts", [1, 2])
async def test_a_profiles_timeout_ends_a_request(provider: Provider, attempts: int) -> None:
    """A provider that hangs would hold a call for ten minutes, and its connection for longer."""
    provider.reply = lambda _: hanging()
    async with built(provider, timeout=0.1, retry=Retry(attempts=attempts, wait=0.0)) as asked:
        with pytest.raises(dspy.LMTimeoutError, match=r"0\.1 s"):
            await asked.ask()
    assert [(r.status, r.retries) for r in asked.requests] == [("lm_timeout", attempts - 1)]
    assert await eventually(lambda: provider.disconnects == attempts)
    assert len(provider.requests) == attempts


async def test_a_cancelled_request_closes_its_connection(provider: Provider) -> None:
    """A stopped call would go on to be generated, and paid for."""
    arrived = threading.Event()

    def hang(_: object) -> Reply:
        arrived.set()
        return hanging()

    provider.reply = hang
    async with built(provider) as asked:
        task = asyncio.create_task(asked.ask())
        assert await asyncio.to_thread(arrived.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [r.status for r in asked.requests] == ["cancelled"]
        assert await eventually(lambda: provider.disconnects == 1)
    assert provider.requests[0].closed
    assert len(provider.requests) == 1


async def test_one_lm_has_more_than_a_hundred_requests_in_flight(provider: Provider) -> None:
    """DSPy's cap of 100 connections would make slots wait that the pool has given away."""
    provider.reply = lambda _: delayed(1.0, echo())
    async with built(provider) as asked:
        answers = await asyncio.gather(*(asked.ask(question=f"Number {i}?") for i in range(150)))
    assert answers == [f"Number {i}?" for i in range(150)]
    assert provider.peak_in_flight > 100


async def test_an_lm_that_is_dropped_closes_its_connections(provider: Provider) -> None:
    """With a fresh token every hour, a worker would collect connections until it has no descriptor left."""
    port = int(provider.base_url.split(":")[2].partition("/")[0])

    def open_connections() -> int:
        ours = psutil.Process().net_connections("tcp")
        return sum(c.status == "ESTABLISHED" and bool(c.raddr) and c.raddr.port == port for c in ours)

    lms = LMs([])
    lms.add(1, LMSpec(model="openai/x", api_key="k", base_url=provider.base_url))
    engine = lms.get(1)[0]._async_engine_spec
    try:
        await asyncio.gather(*(Asked(lms.get(1)[0]).ask() for _ in range(4)))
        assert open_connections() > 0
        lms.drop(1)
        assert await eventually(lambda: open_connections() == 0)
    finally:
        await engine.aclose()
