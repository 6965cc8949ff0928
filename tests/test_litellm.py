"""LiteLLM in workers of its own: started when needed, and kept from everything that does not need it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dspex
from dspex import LM, Retry
from tests.fresh import fresh
from tests.processes import descendants, until
from tests.provider import Provider, delayed, echo, fault, fields, hanging, sequence

BEDROCK = "bedrock/us.anthropic.claude-haiku-4-5-20251001-v1:0"
SIBLING = "general+litellm"
ONE = {"general": dspex.PoolOptions(workers=1, slots=256)}


@pytest.fixture(scope="module")
def runtime() -> Iterator[dspex.Runtime]:
    profiles = {"cloud": LM(BEDROCK, api_key="k", aws_region_name="eu-west-1")}
    settings = dspex.Settings(allow_modules=["tests.commands"])
    with dspex.Runtime(lms=profiles, pools=ONE, settings=settings) as opened:
        yield opened


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


def cloud(provider: Provider, **options: Any) -> LM:
    known: dict[str, Any] = {
        "api_key": "k",
        "aws_region_name": "eu-west-1",
        "retry": Retry(attempts=1),
    }
    return LM(BEDROCK, base_url=provider.origin, **{**known, **options})


def test_a_profile_that_needs_it_has_it_ready_at_opening(runtime: dspex.Runtime, provider: Provider) -> None:
    """The first call would wait for an import of seconds, within its own deadline."""
    assert [worker.state for worker in runtime.stats().pools[SIBLING].workers] == ["ready"]
    assert runtime.adapter().generate("Where?", lm=cloud(provider)).response == "Where?"
    assert runtime.stats().pools[SIBLING].counters == {"ok": 1}


def test_no_image_is_downloaded_on_a_callers_word(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a client could have a worker ask any server, where a provider opens no addresses."""
    adapter = runtime.adapter(lm=cloud(provider))
    signature = "q, image: Image -> answer"
    with pytest.raises(dspex.LMInvalidRequest, match=r"send the data \(Image.from_path") as caught:
        adapter.generate("?", signature=signature, inputs={"image": dspex.Image("https://192.0.2.1/x.png")})
    assert not caught.value.retryable
    assert provider.requests == []
    data = dspex.Image.from_bytes(b"\x89PNG\r\n\x1a\n")
    assert adapter.generate("?", signature=signature, inputs={"image": data}).answer == "?"


def test_ordinary_workers_do_without_it(runtime: dspex.Runtime, provider: Provider) -> None:
    """Each of them would have 130 MB more, and seconds more to wait for."""
    plain = LM("openai/x", base_url=provider.base_url)
    assert runtime.adapter().generate("Where?", lm=plain).response == "Where?"
    assert runtime.pool("general").execute("tests.modules", {"names": ["litellm", "dspy"]}) == ["dspy"]
    assert runtime.stats().pools["general"].counters["ok"] == 2


def test_the_second_step_of_an_lm_may_need_it(runtime: dspex.Runtime, provider: Provider) -> None:
    """A worker without LiteLLM would import it in the middle of a call."""
    done = runtime.stats().pools[SIBLING].counters["ok"]
    provider.reply = sequence(fields(response="It is 2."), fields(response="2"))
    second = LM("openai/y", base_url=provider.base_url, engine="litellm")
    first = LM("openai/x", base_url=provider.base_url, adapter="two_step", extraction_lm=second)
    runtime.adapter().generate("1 + 1", lm=first)
    assert [request.model for request in provider.requests] == ["x", "y"]
    assert runtime.stats().pools[SIBLING].counters["ok"] == done + 1


@pytest.mark.parametrize("model", [BEDROCK, "openai/x"])
def test_only_dspex_tries_again(runtime: dspex.Runtime, provider: Provider, model: str) -> None:
    """LiteLLM, and the SDK below it, would each multiply the requests, and wait as they like."""
    provider.reply = lambda request: fault(500)
    lm = cloud(provider, retry=Retry(attempts=3, wait=0.0))
    if model != BEDROCK:
        lm = LM(model, engine="litellm", base_url=provider.base_url, retry=Retry(attempts=3, wait=0.0))
    with pytest.raises(dspex.LMUnavailable) as caught:
        runtime.adapter().generate("Where?", lm=lm)
    assert len(provider.requests) == 3
    [request] = caught.value.details["requests"]
    assert (request["status"], request["retries"]) == ("lm_unavailable", 2)


def test_a_providers_own_wait_is_honoured(runtime: dspex.Runtime, provider: Provider) -> None:
    """A provider that says when to come back would be asked before, and refuse again."""
    provider.reply = sequence(fault(429, retry_after=0.25), fields(response="Paris"))
    lm = LM("openai/x", engine="litellm", base_url=provider.base_url, retry=Retry(attempts=2, wait=0.0))
    assert runtime.adapter().generate("Where?", lm=lm).response == "Paris"
    first, second = provider.requests
    assert second.at - first.at >= 0.25


@pytest.mark.parametrize("model", [BEDROCK, "openai/x"])
def test_many_requests_are_in_flight_at_once(runtime: dspex.Runtime, provider: Provider, model: str) -> None:
    """A store of connections with a cap would hold calls up, unseen, within their deadlines."""
    provider.reply = lambda request: delayed(0.5, echo())
    lm = cloud(provider)
    if model != BEDROCK:
        lm = LM(model, engine="litellm", base_url=provider.base_url)

    async def all_at_once() -> None:
        adapter = runtime.adapter()
        await asyncio.gather(*(adapter.agenerate(f"{number}", lm=lm) for number in range(150)))

    runtime.adapter().generate("warm", lm=lm)
    asyncio.run(all_at_once())
    assert provider.peak_in_flight > 110


def test_a_deadline_stops_the_request_and_not_the_worker(runtime: dspex.Runtime, provider: Provider) -> None:
    """A call would run on, or take its neighbours along."""
    provider.reply = lambda request: hanging()
    [worker] = runtime.stats().pools[SIBLING].workers
    with pytest.raises(dspex.PythonTimeout) as caught:
        runtime.adapter(timeout=0.3).generate("Where?", lm=cloud(provider))
    assert caught.value.details["killed"] is False
    assert [w.pid for w in runtime.stats().pools[SIBLING].workers] == [worker.pid]
    until(lambda: provider.disconnects == 1)


def test_a_lost_worker_is_replaced_by_one_that_has_it(runtime: dspex.Runtime, provider: Provider) -> None:
    """One crash would end the use of a provider until the next opening."""
    adapter = runtime.adapter()
    [worker] = runtime.stats().pools[SIBLING].workers
    os.kill(worker.pid, signal.SIGKILL)
    assert adapter.generate("Where?", lm=cloud(provider)).response == "Where?"
    assert runtime.stats().pools[SIBLING].restarts


def test_it_starts_when_first_needed_and_ends_with_the_rest(provider: Provider) -> None:
    """Every runtime would pay for it, or a process be left."""
    before = set(descendants(os.getpid()))
    with dspex.Runtime(pools=ONE) as runtime:
        assert list(runtime.stats().pools) == ["general", "isolated"]
        assert runtime.adapter(timeout=60).generate("Where?", lm=cloud(provider)).response == "Where?"
        assert set(runtime.stats().pools) == {"general", "isolated", SIBLING}
    until(lambda: set(descendants(os.getpid())) <= before)
    with pytest.raises((dspex.PoolClosed, RuntimeError)):
        runtime.adapter().generate("Where?", lm=cloud(provider))


def test_a_pool_cannot_have_its_siblings_name() -> None:
    """Two pools would have one name in the statistics."""
    with pytest.raises(dspex.InvalidOption, match="litellm"):
        dspex.Runtime(pools={"mine+litellm": dspex.PoolOptions()})


def imported() -> Any:
    """What importing LiteLLM leaves in a process, and whom it asks."""
    asked: list[str] = []

    def note(*address: object, **_: object) -> list[Any]:
        asked.append(str(address))
        return []

    for where, name in ((socket.socket, "connect"), (socket.socket, "connect_ex"), (socket, "getaddrinfo")):
        setattr(where, name, note)
    from dspex.worker.litellm_engine import litellm

    callbacks = [
        *litellm.callbacks,
        *litellm.success_callback,
        *litellm.failure_callback,
        *litellm.input_callback,
    ]
    threads = len(list(Path("/proc/self/task").iterdir()))
    return asked, threads, [str(c) for c in callbacks], litellm.telemetry, litellm.num_retries


def test_its_import_asks_nobody_and_starts_no_thread() -> None:
    """Workers would wait for a download, tell somebody of their calls, or have locks that nobody opens."""
    assert fresh(imported) == [[], 1, [], False, None]
