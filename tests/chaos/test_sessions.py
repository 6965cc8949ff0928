"""Sessions while workers are killed, the provider is slow, and the store fails."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import dspex
from tests.chaos.figures import at_work, back_to, pids
from tests.chaos.session_process import Process
from tests.chaos.talks import heard, reply
from tests.processes import until
from tests.provider import Provider

pytestmark = [pytest.mark.chaos, pytest.mark.anyio]

SESSIONS, TURNS, WORKERS = 50, 20, 2


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(reply) as running:
        yield running


def opened(store: str, provider: Provider, **options: object) -> dspex.Runtime:
    lm = dspex.LM("openai/x", base_url=provider.base_url)
    return dspex.Runtime(lm, pools={"general": {"workers": WORKERS, **options}}, store=store)


async def killing(runtime: dspex.Runtime, kills: list[int]) -> None:
    """SIGKILL one worker after another until cancelled."""
    while True:
        await asyncio.sleep(random.uniform(0.1, 0.4))
        if running := pids(runtime):
            kills.append(random.choice(running))
            with contextlib.suppress(ProcessLookupError):
                os.kill(kills[-1], signal.SIGKILL)


async def test_a_thousand_turns_while_workers_are_killed(where: str, provider: Provider) -> None:
    """If this failed, turns at once would be lost, doubled, or told to another session."""
    # How often one call meets a kill is the machine's affair, and not what is asked here.
    async with opened(where, provider, max_reruns=1000) as runtime:
        await back_to(runtime, WORKERS)
        adapter = runtime.adapter(timeout=100.0)
        kills: list[int] = []

        async def talk(which: int) -> None:
            session = await adapter.asession(f"s{which}")
            for number in range(TURNS):
                answer = await session.achat(f"ask-{which}.{number}")
                assert answer.reply == f"ask-{which}.{number}"
                assert answer.recorded

        storm = asyncio.create_task(killing(runtime, kills))
        await asyncio.gather(*(talk(which) for which in range(SESSIONS)))
        storm.cancel()
        for which in range(SESSIONS):
            session = await adapter.asession(f"s{which}")
            turns = await session.aturns()
            texts = [f"ask-{which}.{number}" for number in range(TURNS)]
            assert [turn.number for turn in turns] == list(range(1, TURNS + 1))
            assert [(turn.status, turn.inputs, turn.outputs) for turn in turns] == [
                ("ok", {"message": text}, {"reply": text}) for text in texts
            ]
            insights = await session.ainsights()
            assert (insights.turns, insights.answered, insights.failed) == (TURNS, TURNS, 0)
    assert kills
    for history, message in heard(provider):  # a worker that was killed has its request made again
        whose, _, number = message.removeprefix("ask-").partition(".")
        assert history == [f"ask-{whose}.{before}" for before in range(int(number))]


async def test_a_worker_that_is_killed_in_the_middle_of_a_turn(where: str, provider: Provider) -> None:
    """If this failed, a turn whose worker dies would be lost, or be there twice."""
    async with opened(where, provider) as runtime:
        await back_to(runtime, WORKERS)
        session = await runtime.adapter(timeout=60.0).asession()
        await session.achat("ask-1")
        for pid in pids(runtime):  # between turns
            os.kill(pid, signal.SIGKILL)
        asking = asyncio.create_task(session.achat("slow-2"))
        await asyncio.to_thread(until, lambda: provider.in_flight == 1, 60)
        (pid,) = at_work(runtime)
        os.kill(pid, signal.SIGKILL)
        answer = await asking
        assert (answer.reply, answer.recorded) == ("slow-2", True)
        assert answer.attempts >= 2  # more, when it was given to one whose death was not known yet
        await session.achat("ask-3")
        turns = await session.aturns()
    assert [(turn.number, turn.status) for turn in turns] == [(1, "ok"), (2, "ok"), (3, "ok")]
    assert turns[1].attempts == answer.attempts
    assert heard(provider)[-1] == (["ask-1", "slow-2"], "ask-3")


async def test_a_program_whose_worker_is_killed(where: str, provider: Provider) -> None:
    """If this failed, a program would be lost with the worker that had it built."""
    async with opened(where, provider) as runtime:
        await back_to(runtime, WORKERS)
        adapter = runtime.adapter(timeout=60.0)
        session = await adapter.asession()
        program = await session.acreate_program("question -> reply", instructions="of-the-program")
        assert (await adapter.aexecute_program(program.id, {"question": "ask-1"})).reply == "ask-1"
        for pid in pids(runtime):
            os.kill(pid, signal.SIGKILL)
        asking = asyncio.create_task(program.acall(question="slow-2"))
        await asyncio.to_thread(until, lambda: provider.in_flight == 1, 60)
        (pid,) = at_work(runtime)
        os.kill(pid, signal.SIGKILL)
        answer = await asking
        assert (answer.reply, answer.recorded) == ("slow-2", True)
        turns = await session.aturns()
    assert [(turn.number, turn.status, turn.program_id) for turn in turns] == [
        (1, "ok", program.id),
        (2, "ok", program.id),
    ]
    assert all("of-the-program" in str(request.body) for request in provider.requests)


async def test_a_deadline_in_the_middle_of_a_turn(where: str, provider: Provider) -> None:
    """If this failed, a slow provider would block a session, or a turn that was not answered be history."""
    async with opened(where, provider) as runtime:
        await back_to(runtime, WORKERS)
        session = await runtime.adapter(timeout=60.0).asession()
        await session.achat("ask-1")
        holding = asyncio.create_task(session.achat("hold-2", timeout=3.0))
        await asyncio.to_thread(until, lambda: provider.in_flight == 1, 60)
        with pytest.raises(dspex.PythonTimeout) as waited:
            await session.achat("ask-never", timeout=0.2)
        assert waited.value.details["phase"] == "queued"
        with pytest.raises(dspex.PythonTimeout) as ran:
            await holding
        assert ran.value.details["phase"] == "running"
        await session.achat("ask-3")
        turns = await session.aturns()
        insights = await session.ainsights()
    assert [turn.status for turn in turns] == ["ok", "failed", "ok"]
    assert turns[1].error is not None
    assert turns[1].error["code"] == "python_timeout"
    assert (insights.answered, insights.failed, insights.errors) == (2, 1, {"python_timeout": 1})
    assert heard(provider)[-1] == (["ask-1"], "ask-3")


async def test_a_file_that_vanishes(tmp_path: Path, provider: Provider) -> None:
    """If this failed, an answer that was paid for would be lost with the database's file."""
    store = tmp_path / "dspex.db"
    async with opened(str(store), provider) as runtime:
        await back_to(runtime, WORKERS)
        session = await runtime.adapter(timeout=60.0).asession("s")
        asking = asyncio.create_task(session.achat("slow-1"))
        await asyncio.to_thread(until, lambda: provider.in_flight == 1, 60)
        for ending in ("", "-wal", "-shm"):
            store.with_name(f"dspex.db{ending}").unlink(missing_ok=True)
        answer = await asking
        assert (answer.reply, answer.recorded) == ("slow-1", False)
        asked = len(provider.requests)
        with pytest.raises(dspex.StoreError):
            await session.achat("ask-2")
        assert len(provider.requests) == asked, "an LM was asked for what could not be recorded"


def test_a_full_disk(tmp_path: Path, provider: Provider) -> None:
    """If this failed, a full disk would cost answers, or leave the store broken when there is room again."""
    store = tmp_path / "dspex.db"
    process = Process(str(store), provider.base_url)
    try:
        process.do("chat", session="s", message="ask-1")
        asking = process.ask("chat", session="s", message="slow-2")
        until(lambda: provider.in_flight == 1, 60)
        process.do("largest_file", size=4096)
        assert process.result(asking) == {"reply": "slow-2", "recorded": False}
        asked = len(provider.requests)
        assert process.error(process.ask("chat", session="s", message="ask-3")) == "store_error"
        assert len(provider.requests) == asked, "an LM was asked for what could not be recorded"
        process.do("largest_file", size=None)
        assert process.do("chat", session="s", message="ask-4")["recorded"]
        process.close()
    except BaseException:
        process.kill()
        raise
    assert heard(provider)[-1].history[0] == "ask-1"
    assert "slow-2" not in heard(provider)[-1].history, "what was not recorded is no history"
