"""The cache of answers: what shares one and what never does, how long, and what a hit costs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dspex
from dspex.lm.cache import Cache, Entry, Memory
from tests.channels import until
from tests.provider import Provider, Reply, delayed, echo, fault, fields, paced, text

pytestmark = pytest.mark.anyio
SIGNATURE = "question -> answer"


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as opened:  # at another address for each test, and so with no answer in the cache
        yield opened


@pytest.fixture(scope="module")
def runtime() -> Iterator[dspex.Runtime]:
    with dspex.Runtime(pools={"general": dspex.PoolOptions(workers=1)}) as opened:
        yield opened


def lm_at(provider: Provider, **options: Any) -> dspex.LM:
    given = {"api_key": "sk-a", "temperature": 0, "base_url": provider.base_url, **options}
    return dspex.LM(given.pop("model", "openai/x"), retry=dspex.Retry(attempts=1), **given)


async def test_the_same_again_asks_nobody(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, the same answer would be paid for again and again."""
    adapter = runtime.adapter(lm=lm_at(provider))
    before = runtime.stats().cache
    first = await adapter.agenerate("Why?", signature=SIGNATURE)
    again = await adapter.agenerate("Why?", signature=SIGNATURE)
    assert len(provider.requests) == 1
    assert (first.cached, again.cached) == (False, True)
    assert again.outputs == first.outputs
    assert again.model == first.model
    assert again.request_id != first.request_id
    assert (again.usage, again.requests, again.worker) == (dspex.Usage(), [], 0)
    stats = runtime.stats().cache
    assert (stats.hits - before.hits, stats.misses - before.misses) == (1, 1)
    assert stats.entries == before.entries + 1


@pytest.mark.parametrize(
    "differs",
    [
        {"prompt": "Another?"},
        {"signature": "question -> answer, note"},
        {"module": "ChainOfThought"},
        {"max_tokens": 77},
        {"tenant": "acme"},
        {
            "inputs": {"history": [{"question": "a", "answer": "b"}]},
            "signature": "history: dspy.History, question -> answer",
        },
        {"lm": {"api_key": "sk-b"}},
        {"lm": {"model": "openai/y"}},
        {"lm": {"adapter": "json"}},
        {"lm": {"max_tokens": 78}},
        {"lm": {"top_p": 0.5}},
        {"lm": {"extra_headers": {"x-org": "other"}}},
    ],
    ids=str,
)  # fmt: skip
async def test_what_an_answer_depends_on_is_in_the_key(
    runtime: dspex.Runtime, provider: Provider, differs: dict[str, Any]
) -> None:
    """If this failed, somebody would get the answer to another question, or another customer's."""
    adapter = runtime.adapter()
    call: dict[str, Any] = {"prompt": "Why?", "signature": SIGNATURE}
    await adapter.agenerate(**call, lm=lm_at(provider))
    other = lm_at(provider, **differs.get("lm", {}))
    response = await adapter.agenerate(**{**call, **differs, "lm": other})
    assert not response.cached
    assert len(provider.requests) == 2


async def test_another_address_is_another_model(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a staging model's answer would be given for that of production."""
    with Provider(lambda _: fields(answer="theirs")) as other:
        adapter = runtime.adapter()
        mine = await adapter.agenerate("Why?", signature=SIGNATURE, lm=lm_at(provider))
        theirs = await adapter.agenerate("Why?", signature=SIGNATURE, lm=lm_at(other))
    assert (mine.answer, theirs.answer) == ("Why?", "theirs")


async def test_tenants_under_load_get_their_own(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, the cache would be where one customer's answer reaches another."""

    def whose(name: str) -> Reply:
        return delayed(0.005, text(f"[[ ## answer ## ]]\n{name}\n[[ ## completed ## ]]"))

    with Provider(lambda _: whose("bob")) as other:
        provider.reply = lambda _: whose("ada")
        lms = {"ada": lm_at(provider, api_key="sk-ada"), "bob": lm_at(other, api_key="sk-bob")}
        adapters = {name: runtime.adapter(lm=lm, tenant=name) for name, lm in lms.items()}

        async def ask(name: str, number: int) -> bool:
            response = await adapters[name].agenerate(f"q{number % 7}", signature=SIGNATURE)
            assert response.answer == name
            return response.cached

        hits = await asyncio.gather(*(ask(name, number) for number in range(300) for name in lms))
        assert sum(hits) == 600 - 14
        assert (len(provider.requests), len(other.requests)) == (7, 7)


@pytest.mark.parametrize(
    ("lm", "call", "kept"),
    [
        ({"temperature": None}, {}, False),
        ({"temperature": None}, {"temperature": 0}, True),
        ({"temperature": 0}, {"temperature": 0.7}, False),
        ({"temperature": 0, "cache": False}, {}, False),
        ({"temperature": None, "cache": True}, {}, True),
        ({"temperature": 0.7, "cache": True}, {}, True),
        ({"cache": True}, {"debug": True}, False),
    ],
)
async def test_when_answers_are_kept(
    runtime: dspex.Runtime, provider: Provider, lm: dict[str, Any], call: dict[str, Any], kept: bool
) -> None:
    """If this failed, who wants variety would get the same answer twice, or one who wants none pay twice."""
    adapter = runtime.adapter(lm=lm_at(provider, **lm))
    for _ in range(2):
        response = await adapter.agenerate("Why?", signature=SIGNATURE, **call)
    assert response.cached is kept
    assert len(provider.requests) == (1 if kept else 2)


async def test_never_with_tools(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a tool that books a flight would be said to have been called, and was not."""

    before = runtime.stats().cache.misses

    def look() -> str:
        """Look."""
        return "seen"

    ends = {"next_thought": "t", "next_tool_name": "finish", "next_tool_args": {}}
    provider.reply = lambda _: fields(**ends, reasoning="r", answer="a")
    adapter = runtime.adapter(lm=lm_at(provider, cache=True))
    for _ in range(2):
        response = await adapter.agenerate(
            "Why?", module="ReAct", signature=SIGNATURE, tools=[look], max_iters=1
        )
        assert not response.cached
    assert runtime.stats().cache.misses == before


async def test_a_hundred_at_once_are_one(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a popular question would be asked a hundred times before its first answer."""
    provider.reply = lambda _: delayed(0.2, echo())
    adapter = runtime.adapter(lm=lm_at(provider))
    found = await asyncio.gather(*(adapter.agenerate("Why?", signature=SIGNATURE) for _ in range(100)))
    assert len(provider.requests) == 1
    assert sum(not response.cached for response in found) == 1
    assert sum(response.usage.total_tokens for response in found) == max(r.usage.total_tokens for r in found)
    assert {response.answer for response in found} == {"Why?"}


async def test_who_leaves_takes_nobody_along(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, one closed browser tab would fail everybody who asked the same."""
    provider.reply = lambda _: delayed(0.5, echo())
    adapter = runtime.adapter(lm=lm_at(provider))
    tasks = [asyncio.create_task(adapter.agenerate("Why?", signature=SIGNATURE)) for _ in range(10)]
    hasty = asyncio.create_task(adapter.agenerate("Why?", signature=SIGNATURE, timeout=0.1))
    await until(lambda: provider.in_flight == 1)
    tasks[0].cancel()
    with pytest.raises(dspex.PythonTimeout):
        await hasty
    found = await asyncio.gather(*tasks[1:])
    assert {response.answer for response in found} == {"Why?"}
    assert len(provider.requests) == 1


async def test_when_all_leave_the_work_stops(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a model would work for nobody."""
    provider.reply = lambda _: delayed(30, echo())
    adapter = runtime.adapter(lm=lm_at(provider))
    tasks = [asyncio.create_task(adapter.agenerate("Why?", signature=SIGNATURE)) for _ in range(10)]
    await until(lambda: provider.in_flight == 1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await until(lambda: provider.disconnects == 1)


async def test_the_leaders_deadline_is_its_own(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a hasty caller would end the calls of patient ones."""
    adapter = runtime.adapter(lm=lm_at(provider))
    provider.reply = lambda _: delayed(0.6, echo())
    hasty = asyncio.create_task(adapter.agenerate("Why?", signature=SIGNATURE, timeout=0.3))
    await until(lambda: provider.in_flight == 1)
    patient = [asyncio.create_task(adapter.agenerate("Why?", signature=SIGNATURE)) for _ in range(5)]
    with pytest.raises(dspex.PythonTimeout):
        await hasty
    found = await asyncio.gather(*patient)
    assert {response.answer for response in found} == {"Why?"}
    assert len(provider.requests) == 2


async def test_failures_are_shared_and_not_kept(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a provider that is down would be asked a hundred times, or stay down for an hour."""
    provider.reply = lambda _: delayed(0.1, fault(500))
    adapter = runtime.adapter(lm=lm_at(provider))
    ends = await asyncio.gather(
        *(adapter.agenerate("Why?", signature=SIGNATURE) for _ in range(20)), return_exceptions=True
    )
    assert {type(end) for end in ends} == {dspex.LMUnavailable}
    assert len({end.request_id for end in ends if isinstance(end, dspex.DspexError)}) == 20
    assert len(provider.requests) == 1
    provider.reply = lambda _: echo()
    assert (await adapter.agenerate("Why?", signature=SIGNATURE)).answer == "Why?"


async def test_a_stream_has_its_hit(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a stream would pay for what is known, or not be one when it is."""
    provider.reply = lambda _: paced(fields(answer="one two three"), cut=3)
    adapter = runtime.adapter(lm=lm_at(provider))
    for hit in (False, True):
        events = [event async for event in adapter.astream("Why?", signature=SIGNATURE)]
        assert isinstance(events[0], dspex.Started)
        assert "".join(e.text for e in events if isinstance(e, dspex.Delta)) == "one two three"
        assert isinstance(events[-1], dspex.Final)
        assert events[-1].response.cached is hit
    assert len(provider.requests) == 1
    assert (await adapter.agenerate("Why?", signature=SIGNATURE)).cached


async def test_turns_of_a_session(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a conversation would miss what was answered from the cache."""
    adapter = runtime.adapter(lm=lm_at(provider))
    for name in ("one", "two"):
        session = await adapter.asession(name)
        response = await adapter.agenerate("Why?", signature=SIGNATURE, session=session)
        assert response.recorded
        (turn,) = await session.aturns()
        assert turn.outputs == {"answer": "Why?"}
    assert response.cached


async def test_settings_bound_it(provider: Provider) -> None:
    """If this failed, a cache would grow without end, or give answers of last year."""
    settings = dspex.Settings(file=False, cache_ttl=0.05)
    async with dspex.Runtime(lm_at(provider), settings=settings) as runtime:
        await runtime.adapter().agenerate("Why?", signature=SIGNATURE)
        await asyncio.sleep(0.06)
        assert not (await runtime.adapter().agenerate("Why?", signature=SIGNATURE)).cached
    memory = Memory(10_000, 60)
    for number in range(100):
        memory.put(bytes([number]), Entry(b"x" * 600, None))
        memory.get(b"\0")  # used, so that it stays
    count, taken = memory.counted
    assert taken <= 10_000
    assert count == 11
    assert memory.get(b"\0") is not None
    assert memory.get(b"\1") is None
    assert not Cache(memory).put(b"large", Entry(b"x" * 9_000, None))


async def test_an_answer_outlives_the_process(provider: Provider, tmp_path: Path) -> None:
    """If this failed, each deployment would pay for all that was known."""
    path = tmp_path / "answers.cache"
    lm = lm_at(provider, cache=path, api_key="canary-sk-123", temperature=None)
    for hit in (False, True):
        async with dspex.Runtime(lm) as runtime:
            response = await runtime.adapter(tenant="acme").agenerate("Why?", signature=SIGNATURE)
            assert response.cached is hit
            other = await runtime.adapter(tenant="globex").agenerate("Why?", signature=SIGNATURE)
            assert other.cached is hit
    assert len(provider.requests) == 2
    assert path.stat().st_mode & 0o777 == 0o600
    written = path.read_bytes()
    assert b"canary" not in written
    assert b"acme" not in written


@pytest.mark.parametrize("broken", ["text", "database", "folder", "missing"])
async def test_a_file_that_cannot_be_used_costs_no_call(
    provider: Provider, tmp_path: Path, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    """If this failed, a disk's trouble would be every caller's."""
    path = tmp_path / "answers.cache"
    if broken == "text":
        path.write_text("precious\n" * 1000)
    elif broken == "database":
        import sqlite3

        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE precious (x)")
        connection.close()
    elif broken == "folder":
        path.mkdir()
    else:
        path = tmp_path / "none" / "answers.cache"
    before = path.read_bytes() if path.is_file() else None
    async with dspex.Runtime(lm_at(provider, cache=path)) as runtime:
        for hit in (False, True):  # what is in memory is there in any case
            assert (await runtime.adapter().agenerate("Why?", signature=SIGNATURE)).cached is hit
    assert "is left alone" in caplog.text
    assert (path.read_bytes() if path.is_file() else None) == before
