"""Batches: an outcome for each item, how many are asked at once, and a journal that is gone on with."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import dspex
from dspex.batch import journal as journals
from tests.processes import until
from tests.provider import Provider, Reply, Request, delayed, echo, fault

pytestmark = pytest.mark.anyio
SIGNATURE = "question -> answer"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as opened:
        yield opened


@pytest.fixture(scope="module")
def runtime(provider: Provider) -> Iterator[dspex.Runtime]:
    lm = dspex.LM("openai/x", base_url=provider.base_url, retry=dspex.Retry(attempts=1))
    with dspex.Runtime(lm, pools={"general": dspex.PoolOptions(workers=1)}) as opened:
        yield opened


@pytest.fixture
def adapter(provider: Provider, runtime: dspex.Runtime) -> dspex.DSPyAdapter:
    provider.reply = lambda _: echo()
    provider.requests.clear()
    provider.peak_in_flight = 0
    return runtime.adapter()


def answers(outcomes: list[Any]) -> list[Any]:
    return [outcome.response.answer if outcome.ok else outcome.error.code for outcome in outcomes]


def test_each_item_has_its_outcome_at_its_place(provider: Provider, adapter: dspex.DSPyAdapter) -> None:
    """If this failed, an answer would stand beside another question, or one failure would cost all."""
    provider.reply = lambda request: fault(400) if "q7" in request.prompt.user else echo()
    items = [{"question": f"q{number}"} if number % 2 else f"q{number}" for number in range(20)]
    outcomes = list(adapter.batch([*items, {"wrong": "x"}, {"question": object()}], signature=SIGNATURE))
    assert [outcome.index for outcome in outcomes] == list(range(22))
    assert answers(outcomes) == [
        *(f"q{number}" if number != 7 else "lm_invalid_request" for number in range(20)),
        "invalid_input",
        "invalid_input",
    ]
    assert list(adapter.batch([], signature=SIGNATURE)) == []


def test_what_is_wrong_with_all_items_is_told_once(provider: Provider, adapter: dspex.DSPyAdapter) -> None:
    """If this failed, a wrong module would be 500,000 failed rows."""
    with pytest.raises(dspex.ModuleNotFound):
        adapter.batch(["q"], module="dspy.Predikt")
    with pytest.raises(dspex.InvalidSignature):
        adapter.batch(["q"], signature="question ->")
    with pytest.raises(dspex.InvalidOption, match="concurrency"):
        adapter.batch(["q"], concurrency=0)
    assert not provider.requests


async def test_ways_to_give_items_and_to_get_outcomes(adapter: dspex.DSPyAdapter) -> None:
    """If this failed, a file of unknown length could not be read as it is asked."""

    async def coming() -> AsyncIterator[str]:
        for number in range(5):
            yield f"q{number}"

    expected = [f"q{number}" for number in range(5)]
    assert answers(await adapter.abatch(coming(), signature=SIGNATURE)) == expected
    assert answers(await adapter.abatch(iter(expected), signature=SIGNATURE)) == expected
    found = [outcome async for outcome in adapter.abatch(coming(), signature=SIGNATURE, as_completed=True)]
    assert sorted(answers(found)) == expected
    listed = await asyncio.to_thread(
        lambda: list(adapter.batch(expected, signature=SIGNATURE, as_completed=True))
    )
    assert sorted(answers(listed)) == expected
    # On a loop that is not the runtime's own, as in a notebook.
    assert answers(list(adapter.batch(expected, signature=SIGNATURE))) == expected


def test_no_more_at_once_than_was_said(provider: Provider, adapter: dspex.DSPyAdapter) -> None:
    """If this failed, a provider would be asked by everything at once."""
    provider.reply = lambda _: delayed(0.02, echo())
    adapter.batch([f"q{number}" for number in range(20)], signature=SIGNATURE, concurrency=3)
    assert provider.peak_in_flight <= 3


def test_items_are_read_as_they_are_asked(provider: Provider, adapter: dspex.DSPyAdapter) -> None:
    """If this failed, a batch over a million rows would hold them all in memory."""
    read = 0

    def items() -> Iterator[str]:
        nonlocal read
        for number in range(10_000):
            read += 1
            yield f"q{number}"

    outcomes = adapter.batch(items(), signature=SIGNATURE, concurrency=4, as_completed=True)
    with outcomes:
        for _ in range(10):
            next(outcomes)
        assert read < 60
    with pytest.raises(StopIteration):
        next(outcomes)
    until(lambda: provider.in_flight == 0)


def test_a_busy_provider_costs_no_item(provider: Provider, adapter: dspex.DSPyAdapter) -> None:
    """If this failed, rows would be lost whenever a provider asks for patience."""
    lock, refused = threading.Lock(), set[str]()

    def reply(request: Request) -> Reply:
        with lock:
            if len(refused) < 5 and request.prompt.user not in refused:
                refused.add(request.prompt.user)
                return fault(429, retry_after=0.05)
        return echo()

    provider.reply = reply
    items = [f"q{number}" for number in range(30)]
    assert answers(list(adapter.batch(items, signature=SIGNATURE))) == items


def test_errors_that_may_pass_are_tried_again_when_asked(
    provider: Provider, adapter: dspex.DSPyAdapter
) -> None:
    """If this failed, a hiccup of the provider would be a failed row, or each failure be paid for twice."""
    seen: dict[str, int] = {}

    def reply(request: Request) -> Reply:
        seen[request.prompt.user] = seen.get(request.prompt.user, 0) + 1
        return fault(500) if seen[request.prompt.user] == 1 else echo()

    provider.reply = reply
    assert answers(list(adapter.batch(["a", "b"], signature=SIGNATURE))) == ["lm_unavailable"] * 2
    seen.clear()
    assert answers(list(adapter.batch(["a", "b"], signature=SIGNATURE, retries=1))) == ["a", "b"]


def test_a_batch_stops_when_too_much_has_failed(provider: Provider, adapter: dspex.DSPyAdapter) -> None:
    """If this failed, a wrong prompt would be paid for 500,000 times."""
    provider.reply = lambda _: fault(400)
    outcomes = list(
        adapter.batch([f"q{n}" for n in range(50)], signature=SIGNATURE, max_errors=3, concurrency=2)
    )
    codes = answers(outcomes)
    assert len(codes) == 50
    assert set(codes) == {"lm_invalid_request", "cancelled"}
    assert codes.count("lm_invalid_request") <= 5
    assert "max_errors" in str(outcomes[-1].error)


def test_progress_is_told(adapter: dspex.DSPyAdapter) -> None:
    """If this failed, nobody would know how long it takes."""
    told: list[dspex.BatchProgress] = []
    adapter.batch([f"q{n}" for n in range(20)], signature=SIGNATURE, progress=told.append)
    assert (told[-1].done, told[-1].ok, told[-1].failed, told[-1].total) == (20, 20, 0, 20)
    assert told[-1].tokens > 0


# The journal


def test_nothing_that_is_recorded_is_asked_again(
    provider: Provider, adapter: dspex.DSPyAdapter, tmp_path: Path
) -> None:
    """If this failed, a batch that was killed would be paid for twice."""
    path = tmp_path / "journal"
    how: dict[str, Any] = {"signature": "question -> answer, count: int", "journal": path}
    items = [f"q{number}" for number in range(10)]
    provider.reply = lambda request: fault(400) if "q3" in request.prompt.user else echo()
    first = list(adapter.batch(items[:6], **how))
    asked = len(provider.requests)
    provider.reply = lambda _: echo()
    second = list(adapter.batch(items, **how))
    assert len(provider.requests) == asked + 4
    assert [outcome.from_journal for outcome in second] == [True] * 6 + [False] * 4
    assert answers(second[:6]) == answers(first)
    assert second[0].response.outputs == first[0].response.outputs
    assert second[0].response.usage == first[0].response.usage
    third = list(adapter.batch(items, **how, retry_failed=True))
    assert len(provider.requests) == asked + 5
    assert all(outcome.ok for outcome in third)
    changed = list(adapter.batch(["other", *items[1:]], **how))
    assert len(provider.requests) == asked + 6
    assert changed[0].response.answer == "other"
    records = list(journals.read(path))
    assert len(records) == 12
    assert {record.index for record in records} == set(range(10))


def test_the_journal_of_something_else_is_refused(adapter: dspex.DSPyAdapter, tmp_path: Path) -> None:
    """If this failed, answers of another program would be taken for this one's."""
    path = tmp_path / "journal"
    adapter.batch(["q"], signature=SIGNATURE, journal=path)
    with pytest.raises(dspex.InvalidOption, match="signature differs"):
        adapter.batch(["q"], signature="question -> reply", journal=path)
    with pytest.raises(dspex.InvalidOption, match="lm differs"):
        adapter.batch(["q"], signature=SIGNATURE, lm="openai/other", journal=path)
    other = tmp_path / "no journal"
    other.write_text("something else\n")
    with pytest.raises(dspex.InvalidOption, match="no journal"):
        adapter.batch(["q"], signature=SIGNATURE, journal=other)
    assert other.read_text() == "something else\n"
    open_one = adapter.batch(iter(["q", "r"]), signature=SIGNATURE, journal=path, as_completed=True)
    with open_one:
        next(open_one)
        with pytest.raises(dspex.Conflict):
            adapter.batch(["q"], signature=SIGNATURE, journal=path)


def test_a_journal_cut_anywhere_is_gone_on_with(
    provider: Provider, adapter: dspex.DSPyAdapter, tmp_path: Path
) -> None:
    """If this failed, a process killed in mid-write would lose its journal, or believe half a record."""
    path = tmp_path / "journal"
    items = ["a", "b", "ü😀"]
    adapter.batch(items, signature=SIGNATURE, journal=path)
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    for end in (len(lines[0]), len(lines[0]) + 5, len(data) - len(lines[-1]), len(data) - 1, len(data) - 20):
        path.write_bytes(data[:end])
        before = len(provider.requests)
        kept = len(list(journals.read(path)))
        assert answers(list(adapter.batch(items, signature=SIGNATURE, journal=path))) == items
        assert len(provider.requests) == before + 3 - kept
    damaged = bytearray(data)
    damaged[len(lines[0]) + 30] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(dspex.InvalidOption, match="damaged in line 2"):
        adapter.batch(items, signature=SIGNATURE, journal=path)


def test_a_journal_holds_no_key(runtime: dspex.Runtime, provider: Provider, tmp_path: Path) -> None:
    """If this failed, a file that is passed around would have a key in it, or its digest."""
    path = tmp_path / "journal"
    for key in ("canary-key-1", "canary-key-2"):  # another key is the same batch
        lm = dspex.LM("openai/x", base_url=provider.base_url, api_key=key)
        runtime.adapter().batch(["q"], signature=SIGNATURE, lm=lm, journal=path)
    assert b"canary" not in path.read_bytes()
    header = json.loads(path.read_bytes().splitlines()[0][9:])
    assert header["says"]["lm"]["model"] == "openai/x"


def test_programs_have_batches(provider: Provider, adapter: dspex.DSPyAdapter, tmp_path: Path) -> None:
    """If this failed, a stored program could only be called one by one."""
    items = [{"question": f"q{number}"} for number in range(5)]
    expected = [item["question"] for item in items]
    stored = adapter.create_program(SIGNATURE)
    assert answers(list(stored.batch(items, journal=tmp_path / "one"))) == expected
    loaded = adapter.program("dspy.Predict", signature=SIGNATURE)
    assert isinstance(loaded, dspex.LoadedProgram)
    assert answers(list(loaded.batch(items))) == expected
    before = len(provider.requests)
    assert answers(list(stored.batch(items, journal=tmp_path / "one"))) == expected
    assert len(provider.requests) == before
    stored.change(instructions="Differently.")
    with pytest.raises(dspex.InvalidOption, match="another batch"):
        stored.batch(items, journal=tmp_path / "one")
    with pytest.raises(dspex.InvalidOption, match="journl"):
        stored.batch(items, journl=1)


@pytest.mark.parametrize("items", [None, 5, "text", b"bytes", {"question": "one"}])
async def test_one_item_is_no_batch(adapter: dspex.DSPyAdapter, items: Any) -> None:
    """If this failed, a text that was meant as one item would be asked letter by letter."""
    with pytest.raises(dspex.InvalidInput, match=r"\[item\]"):
        adapter.batch(items, signature=SIGNATURE)
    with pytest.raises(dspex.InvalidInput):
        await adapter.abatch(items, signature=SIGNATURE)


@pytest.mark.parametrize("wrong", [{"journal": 5}, {"progress": 5}, {"concurrency": 0}, {"max_cost": -1}])
def test_options_that_cannot_be(adapter: dspex.DSPyAdapter, wrong: dict[str, Any]) -> None:
    """If this failed, a slip would be told by a traceback from the middle of a batch."""
    with pytest.raises(dspex.InvalidOption) as caught:
        adapter.batch(["q"], signature=SIGNATURE, **wrong)
    assert caught.value.details["option"] in wrong


_LEFT_OPEN = """
import dspex
from tests.provider import Provider

with Provider() as provider:
    runtime = dspex.Runtime(dspex.LM("openai/x", base_url=provider.base_url)).__enter__()
    many = iter(lambda: "q", None)
    outcomes = runtime.adapter().batch(many, signature="question -> answer", as_completed=True)
    next(outcomes)
    print("left", flush=True)
"""


def test_an_interpreter_ends_with_a_batch_open() -> None:
    """If this failed, a script that stops in the middle of its batch would never end."""
    root = Path(__file__).parents[1]
    ran = subprocess.run(
        [sys.executable, "-c", _LEFT_OPEN], cwd=root, capture_output=True, text=True, timeout=100, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, "left\n"), ran.stderr
    assert ran.stderr == ""


async def test_a_batch_is_closed_while_somebody_waits(
    provider: Provider, adapter: dspex.DSPyAdapter, runtime: dspex.Runtime
) -> None:
    """If this failed, a service that stops could not stop the batches that its threads and tasks read."""
    provider.reply = lambda _: delayed(0.2, echo())
    outcomes = adapter.batch(iter(lambda: "q", None), signature=SIGNATURE, as_completed=True)
    thread = threading.Thread(target=lambda: [None for _ in outcomes])
    thread.start()
    until(lambda: provider.in_flight > 0)
    outcomes.close()
    thread.join(60)
    assert not thread.is_alive()

    coming = adapter.abatch(iter(lambda: "q", None), signature=SIGNATURE, as_completed=True)

    async def read() -> list[int]:
        return [outcome.index async for outcome in coming]

    reading = asyncio.create_task(read())
    await asyncio.to_thread(until, lambda: provider.in_flight > 0)
    await coming.aclose()
    async with asyncio.timeout(60):
        await reading
    await asyncio.to_thread(until, lambda: runtime.stats().pools["general"].unfinished == 0)
