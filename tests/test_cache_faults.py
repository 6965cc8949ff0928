"""The cache where something is wrong with the file, with the one who asks for all, or with what is asked."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

import dspex
from dspex.lm import cache_file
from dspex.lm.cache import Cache, Entry, Memory
from dspex.lm.cache_file import CacheFile
from tests.channels import until
from tests.provider import Provider, delayed, echo, fault, fields

pytestmark = pytest.mark.anyio
SIGNATURE = "question -> answer"


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as opened:  # at another address for each test, and so with no answer in the cache
        yield opened


@pytest.fixture(scope="module")
def runtime() -> Iterator[dspex.Runtime]:
    pools = {"general": dspex.PoolOptions(workers=1), "other": dspex.PoolOptions(workers=1)}
    settings = dspex.Settings(file=False, allow_modules=["tests.programs"])
    with dspex.Runtime(pools=pools, settings=settings) as opened:
        yield opened


def lm_at(provider: Provider, **options: Any) -> dspex.LM:
    given = {"api_key": "sk-a", "temperature": 0, "base_url": provider.base_url, **options}
    return dspex.LM("openai/x", retry=dspex.Retry(attempts=1), **given)


# What is asked


class Short(dspy.Signature):  # type: ignore[misc]
    """Answer in a word."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


class Long(dspy.Signature):  # type: ignore[misc]
    """Answer in a page."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


class Told(dspy.Signature):  # type: ignore[misc]
    """Answer in a word."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField(desc="in capitals")


@pytest.mark.parametrize(
    "differs",
    [
        {"signature": Long},
        {"signature": Told},
        {"options": {"seed": 1}},
        {"temperature": 0.0, "options": {"top_p": 0.5}},
        {"n": 2},
        {"prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}]},
        {"pool": "other"},
    ],
    ids=str,
)
async def test_what_words_and_options_change_is_in_the_key(
    runtime: dspex.Runtime, provider: Provider, differs: dict[str, Any]
) -> None:
    """If this failed, a program whose instructions were mended would still give its old answers."""
    lm = lm_at(provider)
    call: dict[str, Any] = {"prompt": "Why?", "signature": Short}
    await runtime.adapter(lm=lm).agenerate(**call)
    adapter = runtime.adapter(lm=lm, pool=differs.pop("pool", "general"))
    assert not (await adapter.agenerate(**{**call, **differs})).cached
    assert (await adapter.agenerate(**{**call, **differs})).cached


async def test_examples_are_in_the_key(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, examples that were added would change no answer."""
    session = await runtime.adapter(lm=lm_at(provider)).asession("demos")
    for demos in (None, [{"question": "a", "answer": "b"}], [{"question": "a", "answer": "c"}]):
        program = await session.acreate_program(SIGNATURE, demos=demos)
        assert not (await program.acall(question="Why?")).cached
        assert (await program.acall(question="Why?")).cached


async def test_a_key_that_changes_has_its_own_answers(
    runtime: dspex.Runtime, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, who had the key before would have answered whoever has it now."""
    named = runtime.adapter(lm=lm_at(provider, api_key="env:CACHE_TEST_KEY"))
    for key, hit in (("sk-3", False), ("sk-3", True), ("sk-4", False)):
        monkeypatch.setenv("CACHE_TEST_KEY", key)
        assert (await named.agenerate("Why?")).cached is hit


async def test_what_its_receiver_changes_stays_his(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, one caller's edit would be in the answers of all that come after."""
    provider.reply = lambda _: fields(answer=["one", "two"])
    adapter = runtime.adapter(lm=lm_at(provider))
    first = await adapter.agenerate("Why?", signature="question -> answer: list[str]")
    first.outputs["answer"].append("mine")
    second = await adapter.agenerate("Why?", signature="question -> answer: list[str]")
    second.outputs["answer"].clear()
    third = await adapter.agenerate("Why?", signature="question -> answer: list[str]")
    assert third.cached
    assert third.answer == ["one", "two"]


@pytest.mark.parametrize("second", [{"cache": False}, {"temperature": 0.9}], ids=str)
async def test_a_second_step_that_varies_is_not_kept(
    runtime: dspex.Runtime, provider: Provider, second: dict[str, Any]
) -> None:
    """If this failed, who wants variety of the second step would get none."""
    lm = lm_at(provider, adapter="two_step", extraction_lm=lm_at(provider, **second))
    for _ in range(2):
        assert not (await runtime.adapter(lm=lm).agenerate("Why?", signature=SIGNATURE)).cached


# Who asks for all


async def test_nobody_waits_behind_a_batch(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a caller would wait for a batch whose item asks the same, until his time is over."""
    provider.reply = lambda _: delayed(0.3, echo())
    adapter = runtime.adapter(lm=lm_at(provider, limits=dspex.Limits(in_flight=1)))
    items = [{"question": f"q{number}"} for number in range(8)]
    batch = asyncio.ensure_future(adapter.abatch(items, signature=SIGNATURE, concurrency=8))
    await until(lambda: len(provider.requests) > 0)
    before = len(provider.requests)
    await adapter.agenerate("q7", signature=SIGNATURE)
    asked = [number for number, request in enumerate(provider.requests) if "q7" in str(request.body)]
    assert asked[0] <= before + 1
    assert all(outcome.ok for outcome in await batch)


async def test_a_budget_is_its_owners_alone(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, one caller's small budget would fail all that ask the same at once."""
    provider.reply = lambda _: delayed(0.1, echo())
    adapter = runtime.adapter(lm=lm_at(provider))
    poor = adapter.agenerate("Why?", signature=SIGNATURE, budget=dspex.Budget(tokens=1))
    rich = [adapter.agenerate("Why?", signature=SIGNATURE) for _ in range(10)]
    refused, *ends = await asyncio.gather(poor, *rich, return_exceptions=True)
    assert isinstance(refused, dspex.BudgetExceeded)
    assert {type(end) for end in ends} == {dspex.Response}
    assert len(provider.requests) == 1


async def test_one_failure_is_paid_once(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a hundred who shared one request would each say that they had made it."""
    provider.reply = lambda _: delayed(0.1, fault(500))
    adapter = runtime.adapter(lm=lm_at(provider))
    ends = await asyncio.gather(*(adapter.agenerate("Why?") for _ in range(20)), return_exceptions=True)
    errors = [end for end in ends if isinstance(end, dspex.LMUnavailable)]
    assert len(errors) == 20
    assert sum(len(error.details.get("requests", [])) for error in errors) == len(provider.requests)
    assert len({id(error.details) for error in errors}) == 20


async def test_who_waits_for_anothers_answer_has_not_missed(provider: Provider) -> None:
    """If this failed, the share of hits would look half as good as it is."""
    provider.reply = lambda _: delayed(0.1, echo())
    missed: list[dspex.CacheMiss] = []
    async with dspex.Runtime(lm_at(provider), pools={"general": dspex.PoolOptions(workers=1)}) as runtime:
        runtime.on(dspex.CacheMiss, missed.append)
        await asyncio.gather(*(runtime.adapter().agenerate("Why?") for _ in range(50)))
        stats = runtime.stats().cache
    assert (stats.hits, stats.misses, len(missed)) == (49, 1, 1)


async def test_a_fallback_from_the_cache_says_who_answered(
    runtime: dspex.Runtime, provider: Provider
) -> None:
    """If this failed, an answer would be said to be of the model that could not give it."""
    second = dspex.LM("openai/second", api_key="k", base_url=provider.base_url, temperature=0)
    provider.reply = lambda _: fields(answer=1, note="n")
    signature = "question -> answer: int, note"
    with Provider(lambda _: fields(other="?")) as first:
        await runtime.adapter(lm=second).agenerate("Why?", signature=signature)
        lm = dspex.LM(
            "openai/first", api_key="k", base_url=first.base_url, temperature=0, fallbacks=(second,)
        )
        response = await runtime.adapter(lm=lm).agenerate("Why?", signature=signature)
    assert response.fallbacks[0].code == "parse_error"
    assert response.model == "second"


# The file


async def test_an_answer_from_the_file_is_no_younger_than_it_is(tmp_path: Path) -> None:
    """If this failed, an answer would live twice its time whenever a process took it from the file."""
    path = tmp_path / "answers"
    first = CacheFile(path, 1 << 20, 3600)
    first.put(b"key", Entry(b"x", "m"))
    await first.aclose()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE answers SET until = ?", (time.time() + 1,))
    connection.close()
    cache = Cache(Memory(1 << 20, 3600), CacheFile(path, 1 << 20, 3600))
    await cache.find(b"key")
    async with asyncio.timeout(30):
        while await cache.find(b"key") is not None:  # noqa: ASYNC110 (the clock sets no event)
            await asyncio.sleep(0.05)
    await cache.aclose()


async def test_an_answer_that_a_disk_has_changed_is_asked_for_again(
    provider: Provider, tmp_path: Path
) -> None:
    """If this failed, a damaged disk would fail calls, or answer them wrongly."""
    path = tmp_path / "answers"
    for _ in range(2):
        async with dspex.Runtime(lm_at(provider, cache=path)) as runtime:
            response = await runtime.adapter().agenerate("Why?", signature=SIGNATURE)
        assert not response.cached
        assert response.answer == "Why?"
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE answers SET value = zeroblob(length(value))")
        connection.close()


async def test_all_files_have_one_memory(provider: Provider, tmp_path: Path) -> None:
    """If this failed, a file for each customer would take the memory of as many caches."""
    settings = dspex.Settings(file=False, cache_size=20_000)
    async with dspex.Runtime(settings=settings) as runtime:
        for number in range(30):
            adapter = runtime.adapter(lm=lm_at(provider, cache=tmp_path / str(number)))
            await adapter.agenerate("Why?" + "y" * 900, signature=SIGNATURE)
            assert (await adapter.agenerate("Why?" + "y" * 900, signature=SIGNATURE)).cached
        assert 0 < runtime.stats().cache.entries < 30
        assert runtime.stats().cache.bytes <= 20_000
        assert (runtime.stats().cache.hits, runtime.stats().cache.misses) == (30, 30)


async def test_an_answer_too_large_for_memory_is_in_the_file(tmp_path: Path) -> None:
    """If this failed, a file of a gigabyte would keep nothing that a small memory cannot."""
    cache = Cache(Memory(0, 60), CacheFile(tmp_path / "answers", 1 << 20, 60))
    assert cache.put(b"key", Entry(b"x" * 50_000, "m"))
    assert not cache.put(b"larger", Entry(b"x" * 100_000, "m"))
    assert await cache.find(b"key") == Entry(b"x" * 50_000, "m")
    assert cache.stats.entries == 0
    await cache.aclose()


async def test_a_database_of_somebody_elses_is_left_as_it_is(tmp_path: Path) -> None:
    """If this failed, an application's database would get tables of ours."""
    path = tmp_path / "theirs.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE answers (x)")
        connection.execute(f"PRAGMA user_version={cache_file._FORMAT}")
    connection.close()
    before = path.read_bytes()
    theirs = CacheFile(path, 1 << 20, 60)
    assert await theirs.salt() is None
    theirs.put(b"key", Entry(b"x", None))
    assert await theirs.get(b"key") is None
    await theirs.aclose()
    assert path.read_bytes() == before


async def test_a_file_gives_back_what_it_has_no_use_for(tmp_path: Path) -> None:
    """If this failed, a full disk would stay full after the cache was told to be smaller."""
    path = tmp_path / "answers"
    large = CacheFile(path, 1 << 30, 60)
    for number in range(100):
        large.put(bytes([number]), Entry(b"x" * 50_000, None))
    await large.aclose()
    before = path.stat().st_size
    small = CacheFile(path, 200_000, 60)
    small.put(b"new", Entry(b"x" * 10_000, None))
    assert await small.get(b"new") is not None
    await small.aclose()
    assert path.stat().st_size < before / 5


async def test_a_file_stays_below_its_bound_whatever_is_written(tmp_path: Path) -> None:
    """If this failed, large answers would fill a disk between two looks at the size."""
    path = tmp_path / "answers"
    file = CacheFile(path, 1_000_000, 60)
    for number in range(60):
        assert file.put(bytes([number]), Entry(b"x" * 60_000, None))
        await file.salt()  # what waits is written
    await file.aclose()
    assert path.stat().st_size < 1_500_000


async def test_a_file_that_another_process_has_locked_costs_no_call(
    provider: Provider, tmp_path: Path
) -> None:
    """If this failed, a backup of the file would fail every call meanwhile, or each answer after it."""
    path = tmp_path / "answers"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    async with dspex.Runtime(lm_at(provider, cache=path)) as runtime:
        assert not (await runtime.adapter().agenerate("Why?", signature=SIGNATURE)).cached
        assert (await runtime.adapter().agenerate("Why?", signature=SIGNATURE)).cached
    other.close()


async def test_a_file_that_hangs_costs_no_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If this failed, calls would hang beyond their deadlines with the disk of a cache."""
    monkeypatch.setattr(cache_file, "_PATIENCE", 0.05)
    comes_back = threading.Event()
    monkeypatch.setattr(cache_file, "_check", lambda _: comes_back.wait(60))
    cache = Cache(Memory(1 << 20, 60), CacheFile(tmp_path / "answers", 1 << 20, 60))
    key = await cache.key(b"what")
    assert await cache.find(key) is None
    assert cache.put(key, Entry(b"x", None))
    assert await cache.find(key) is not None
    assert await cache.key(b"what") == key
    assert "does not answer" in caplog.text
    await cache.aclose()
    comes_back.set()


async def test_a_file_that_hangs_keeps_nobody_beyond_his_deadline(
    provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, a timeout would not hold where a disk is slow."""
    comes_back = threading.Event()
    monkeypatch.setattr(cache_file, "_PATIENCE", 60.0)
    monkeypatch.setattr(cache_file, "_check", lambda _: comes_back.wait(60))
    async with dspex.Runtime(lm_at(provider, cache=tmp_path / "answers")) as runtime:
        with pytest.raises(dspex.PythonTimeout, match="waited for the cache"):
            await runtime.adapter().agenerate("Why?", signature=SIGNATURE, timeout=0.2)
        comes_back.set()
        assert (await runtime.adapter().agenerate("Why?", signature=SIGNATURE)).answer == "Why?"


async def test_the_salt_of_a_file_that_comes_back_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, a process that once found the file locked would keep answers that nobody finds."""
    monkeypatch.setattr(cache_file, "_REST", 0.0)
    path = tmp_path / "answers"
    path.mkdir()
    cache = Cache(Memory(1 << 20, 60), CacheFile(path, 1 << 20, 60))
    alone = await cache.key(b"what")
    path.rmdir()
    other = Cache(Memory(1 << 20, 60), CacheFile(path, 1 << 20, 60))
    assert await cache.key(b"what") == await other.key(b"what") != alone
    await cache.aclose()
    await other.aclose()


async def test_processes_that_open_a_new_file_at_once_share_it(tmp_path: Path) -> None:
    """If this failed, one of two processes that a deployment starts together would have no file."""
    for number in range(20):
        files = [CacheFile(tmp_path / f"answers-{number}", 1 << 20, 60) for _ in range(4)]
        salts = await asyncio.gather(*(file.salt() for file in files))
        assert len(set(salts)) == 1
        assert salts[0] is not None
        for file in files:
            await file.aclose()


async def test_answers_of_code_of_ones_own_do_not_outlive_it(provider: Provider, tmp_path: Path) -> None:
    """If this failed, a program that was mended and deployed would still give its old answers."""
    settings = dspex.Settings(file=False, allow_modules=["tests.programs"])
    lm = lm_at(provider, cache=tmp_path / "answers")
    for _ in range(2):
        async with dspex.Runtime(lm, settings=settings) as runtime:
            for hit in (False, True):
                response = await runtime.adapter().agenerate("Why?", module="tests.programs:SharedAsync")
                assert response.cached is hit


def test_a_path_below_nobodys_home_is_refused() -> None:
    """If this failed, each call would fail with an error that names no option."""
    with pytest.raises(dspex.InvalidOption, match="cache"):
        dspex.LM("openai/x", cache="~nobody-of-that-name/answers")
