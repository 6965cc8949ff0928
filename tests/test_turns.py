"""The turns of a session: each call is one, from before it is sent until it has ended."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text

import dspex
from dspex.testing import Failure, InProcessRuntime, ScriptedLM
from tests.processes import until


def said(request: Any) -> dict[str, str]:
    """Answers each output with what it was asked last."""
    return dict.fromkeys(request.outputs, f"to {list(request.inputs.values())[-1]}")


@pytest.fixture(scope="module")
def lm() -> Iterator[ScriptedLM]:
    """A model that tells what it was asked."""
    with ScriptedLM(said) as opened:
        yield opened


@pytest.fixture(scope="module")
def runtime(lm: ScriptedLM) -> Iterator[InProcessRuntime]:
    """A runtime in this process, with small limits."""
    settings = dspex.Settings(
        allow_modules=["tests.learners", "tests.signature_types"],
        max_turn=1024,
        history_turns=4,
        file=False,
    )
    with InProcessRuntime(lm, settings=settings) as opened:
        yield opened


@pytest.fixture
def session(runtime: InProcessRuntime, request: pytest.FixtureRequest) -> dspex.Session:
    """A session for each test."""
    return runtime.adapter().session(request.node.name[:200])


def held() -> tuple[ScriptedLM, threading.Event, threading.Event]:
    """A model that holds its answer back, what says that it was asked, and what lets it answer."""
    asked, release = threading.Event(), threading.Event()

    def reply(request: Any) -> dict[str, str]:
        asked.set()
        release.wait(30)
        return said(request)

    return ScriptedLM(reply), asked, release


# What is written


def test_a_call_is_a_turn(runtime: InProcessRuntime, session: dspex.Session) -> None:
    """If this failed, nobody could see what was asked and answered in a session."""
    adapter = runtime.adapter()
    response = adapter.generate("Why?", module="ChainOfThought", session=session)
    assert response.recorded is True
    again = asyncio.run(adapter.agenerate("How?", session=session.id))
    assert again.recorded is True
    assert adapter.generate("x").recorded is None
    first, second = session.turns()
    assert first.inputs == {"prompt": "Why?"}
    assert first.outputs == {"reasoning": "to Why?", "response": "to Why?"}
    assert (first.number, first.status, first.model) == (1, "ok", "scripted")
    assert first.module == response.stages[0].module == "dspy.ChainOfThought"
    assert first.usage == response.usage
    assert first.request_id == response.request_id
    assert (second.number, second.inputs) == (2, {"prompt": "How?"})
    assert session.turns(limit=1) == [second]
    assert session.turns(before=2) == [first]
    assert session.turns(limit=0) == []
    adapter.generate("made on the way", session="a new one")
    assert adapter.session("a new one").info().turns == 1


def test_a_failed_call_is_a_turn(runtime: InProcessRuntime, session: dspex.Session) -> None:
    """If this failed, what went wrong would be missing, or be the model's next history."""
    with ScriptedLM([Failure(400), {"reply": "Hello."}]) as lm:
        with pytest.raises(dspex.LMInvalidRequest):
            session.chat("one", lm=lm)
        session.chat("two", lm=lm)
        assert "one" not in lm.requests[-1].prompt
        assert all("one" not in str(message) for message in lm.requests[-1].messages)
    failed, answered = session.turns()
    assert (failed.status, answered.status) == ("failed", "ok")
    assert failed.error is not None
    assert failed.error["code"] == "lm_invalid_request"
    assert set(failed.error) == {"code", "message"}
    assert failed.outputs is None
    with pytest.raises(dspex.InvalidInput):
        runtime.adapter().generate("x", signature="a, b -> c", session=session)
    assert len(session.turns()) == 2, "what was refused was never asked"


@pytest.mark.parametrize(
    ("record", "inputs", "outputs"),
    [
        ("all", {"q": "What?"}, {"a": "to What?"}),
        ("shape", {"q": {"type": "str", "length": 5}}, {"a": {"type": "str", "length": 8}}),
    ],
)
def test_what_is_kept(
    runtime: InProcessRuntime, record: Any, inputs: dict[str, Any], outputs: dict[str, Any]
) -> None:
    """If this failed, more would be kept than the operator allowed, or less."""
    session = runtime.adapter().session(f"keeps {record}", record=record)
    assert runtime.adapter().generate("What?", signature="q -> a", session=session).recorded is True
    (turn,) = session.turns()
    assert (turn.inputs, turn.outputs) == (inputs, outputs)


def test_nothing_is_kept(runtime: InProcessRuntime) -> None:
    """If this failed, a session that keeps nothing would keep something, or not count what it costs."""
    session = runtime.adapter().session("keeps none", record="none")
    assert session.chat("a").recorded is True
    assert session.chat("b").recorded is True
    assert session.turns() == []
    found = session.insights()
    assert (found.turns, found.answered, found.failed) == (2, 2, 0)
    assert found.usage.total_tokens > 0


@pytest.mark.parametrize("value", ["x" * 5000, "a\0b", "ä\U0001f389", "", "x" * 900])
def test_odd_values(runtime: InProcessRuntime, session: dspex.Session, value: str) -> None:
    """If this failed, a large or odd text would break a turn, or fill the store."""
    response = runtime.adapter().generate(value, signature="q -> a", session=session)
    assert response.recorded is True
    (turn,) = session.turns()
    kept = {"type": "str", "length": 5000} if len(value) == 5000 else value
    assert turn.inputs == {"q": kept}


def test_ones_own_modules_and_signatures(runtime: InProcessRuntime, session: dspex.Session) -> None:
    """If this failed, only signatures in text would have turns."""
    adapter = runtime.adapter()
    answered = adapter.generate(
        module="tests.learners:Sized", inputs={"question": "x"}, arguments={"size": 2}, session=session
    )
    assert (answered.size, answered.recorded) == (2, True)
    adapter.generate("y", signature={"inputs": {"q": "str"}, "outputs": {"a": "str"}}, session=session)
    assert [turn.inputs for turn in session.turns()] == [{"question": "x"}, {"q": "y"}]


# Whatever becomes of it


def test_a_cancelled_call_is_closed(session: dspex.Session, runtime: InProcessRuntime) -> None:
    """If this failed, a turn that somebody gave up would be shown as running for ever."""
    lm, asked, release = held()

    async def give_up() -> None:
        call = asyncio.create_task(session.achat("x", lm=lm))
        await asyncio.to_thread(asked.wait, 20)
        (open_one,) = await session.aturns()
        assert open_one.status == "running"
        with pytest.raises(dspex.InvalidInput, match="runs still"):
            await session.aundo()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    with lm:
        asyncio.run(give_up())
        release.set()
    (turn,) = session.turns()
    assert turn.status == "cancelled"
    assert session.chat("y").reply == "to y", "the next one has its turn"


def test_a_call_is_cancelled_while_it_waits_for_its_turn(session: dspex.Session) -> None:
    """If this failed, one who left the line would hold up all behind him."""
    lm, asked, release = held()

    async def wait() -> list[str]:
        first = asyncio.create_task(session.achat("first", lm=lm))
        await asyncio.to_thread(asked.wait, 20)
        second = asyncio.create_task(session.achat("second"))
        third = asyncio.create_task(session.achat("third"))
        await asyncio.sleep(0.05)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        with pytest.raises(dspex.PythonTimeout) as late:
            await session.achat("fourth", timeout=0.1)
        assert late.value.details["phase"] == "queued"
        release.set()
        return [(await first).reply, (await third).reply]

    with lm:
        assert asyncio.run(wait()) == ["to first", "to third"]
    assert [turn.status for turn in session.turns()] == ["ok", "ok"]


def test_a_deadline_closes_its_turn(session: dspex.Session) -> None:
    """If this failed, a call that took too long would be shown as running."""
    lm, _, release = held()
    with lm:
        with pytest.raises(dspex.PythonTimeout):
            session.chat("x", lm=lm, timeout=0.5)
        release.set()
    (turn,) = session.turns()
    assert turn.error is not None
    assert (turn.status, turn.error["code"]) == ("failed", "python_timeout")


@pytest.mark.parametrize("gone", ["delete", "reset"])
def test_a_session_that_goes_while_a_call_runs(session: dspex.Session, gone: str) -> None:
    """If this failed, an answer that was paid for would be lost, or a turn be left of what was deleted."""
    lm, asked, release = held()
    with lm, ThreadPoolExecutor(1) as executor:
        call = executor.submit(session.chat, "x", lm=lm)
        assert asked.wait(20)
        getattr(session, gone)()
        release.set()
        response = call.result(20)
    assert (response.reply, response.recorded) == ("to x", False)
    if gone == "reset":
        assert session.turns() == []
        assert session.insights().turns == 0
        assert session.chat("y").recorded is True


def test_closing_closes_open_turns(tmp_path: Any) -> None:
    """If this failed, a restart would show turns that nobody runs."""
    lm, asked, release = held()
    store = tmp_path / "store.db"
    with lm:
        with InProcessRuntime(lm, store=store) as runtime, ThreadPoolExecutor(1) as executor:
            session = runtime.adapter().session("s")
            call = executor.submit(session.chat, "x")
            assert asked.wait(20)
            runtime.close()
            assert isinstance(call.exception(20), dspex.PoolClosed)
        release.set()
        with InProcessRuntime(lm, store=store) as runtime:
            (turn,) = runtime.adapter().session("s").turns()
    assert turn.status == "failed"
    assert turn.error is not None
    assert turn.error["code"] == "pool_closed"


def test_a_store_that_fails(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    """If this failed, a broken store would cost answers that were paid for, or buy what it cannot keep."""
    asked: list[Any] = []

    def reply(request: Any) -> dict[str, str]:
        asked.append(request)
        runtime.portal.run(lambda: runtime.core.sessions.write(_break), "-")
        return said(request)

    def _break(connection: Any) -> None:
        connection.execute(text("ALTER TABLE dspex_turns RENAME TO elsewhere"))

    with ScriptedLM(reply) as lm, InProcessRuntime(lm, store=tmp_path / "store.db") as runtime:
        session = runtime.adapter().session("s")
        response = session.chat("secret words")
        assert (response.reply, response.recorded) == ("to secret words", False)
        assert "could not be written" in caplog.text
        assert "secret words" not in caplog.text
        with pytest.raises(dspex.StoreError):
            session.chat("another")
    assert len(asked) == 1, "what cannot be kept is not asked"


# History


def test_chats_of_many_threads_are_in_order(session: dspex.Session) -> None:
    """If this failed, of two who talk at once one would not see what the other said."""
    with ScriptedLM(lambda q: {"reply": str(len(q.messages))}) as lm, ThreadPoolExecutor(10) as executor:
        calls = [executor.submit(session.chat, f"m{n}", lm=lm) for n in range(6)]
        answers = sorted(int(call.result(30).reply) for call in calls)
    # A system message, two of each turn before (four at most, as the settings say), and its own.
    assert answers == [2, 4, 6, 8, 10, 10]
    assert [turn.status for turn in session.turns()] == ["ok"] * 6
    assert [turn.number for turn in session.turns()] == [1, 2, 3, 4, 5, 6]


def test_whose_history_it_is(runtime: InProcessRuntime, session: dspex.Session, lm: ScriptedLM) -> None:
    """If this failed, a call would be told of turns that are not its own, or not of those it was given."""
    adapter = runtime.adapter()
    adapter.generate("other fields", signature="q -> a", session=session)
    session.chat("mine")

    def told() -> str:
        return str([message["content"] for message in lm.requests[-1].messages[1:-1]])

    session.chat("next")
    assert "mine" in told()
    assert "other fields" not in told()
    signature = "history: dspy.History, message -> reply"
    given = {"history": [{"message": "given", "reply": "by hand"}], "message": "x"}
    adapter.generate(inputs=given, signature=signature, session=session)
    assert "by hand" in told()
    assert "mine" not in told()
    talk = [
        {"role": "user", "content": "in messages"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "x"},
    ]
    adapter.generate(talk, signature=signature, session=session)
    assert "in messages" in told()
    assert "mine" not in told()
    other = adapter.session("another one")
    other.chat("hello")
    assert told() == "[]"


def test_which_lm_answers(runtime: InProcessRuntime) -> None:
    """If this failed, a customer's session would be answered, and billed, by another's LM."""

    def named(name: str) -> Callable[[Any], dict[str, str]]:
        return lambda request: dict.fromkeys(request.outputs, name)

    with ScriptedLM(named("adapter")) as of_adapter, ScriptedLM(named("session")) as of_session:
        with ScriptedLM(named("call")) as of_call:
            adapter = runtime.adapter(lm=of_adapter)
            assert adapter.session("plain").chat("x").reply == "adapter"
            own = adapter.session("own", lm=of_session)
            assert own.chat("x").reply == "session"
            assert own.chat("x", lm=of_call).reply == "call"
            assert adapter.session("own").chat("x").reply == "session", "until it is changed"
            assert own.create_program("q -> a")("x").a == "session"
            assert own.create_program("q -> a", lm=of_call)("x").a == "call"


def test_insights_are_exact(runtime: InProcessRuntime) -> None:
    """If this failed, what a session cost would be guessed."""
    session = runtime.adapter().session("insights")
    with ScriptedLM(lambda q: Failure(400) if "fail" in q.prompt else {"response": "x"}) as lm:
        with ThreadPoolExecutor(10) as executor:
            prompts = ["go"] * 20 + ["fail"] * 5
            adapter = runtime.adapter(lm=lm)
            calls = [executor.submit(adapter.generate, prompt, session=session) for prompt in prompts]
            done = [call.exception(30) is None for call in calls]
        usage = sum((call.result().usage for call, ok in zip(calls, done, strict=True) if ok), dspex.Usage())
    found = session.insights()
    assert (found.turns, found.answered, found.failed) == (25, 20, 5)
    assert found.errors == {"lm_invalid_request": 5}
    assert found.usage == usage
    assert found.tokens == usage.total_tokens
    assert found.p50 is not None
    assert found.slowest is not None
    assert 0 < found.p50 <= found.slowest <= found.seconds
    last = session.undo()
    assert last == 25
    assert session.insights().turns == 25, "what it has cost stays"
    assert len(session.turns()) == 24


def test_nothing_is_undone_where_nothing_was_said(session: dspex.Session) -> None:
    """If this failed, an empty session could not be asked to forget."""
    assert session.undo() is None
    assert session.insights().cost is None or session.insights().cost == 0
    until(lambda: session.turns() == [])


@pytest.mark.anyio
async def test_the_twin_is_named_on_the_runtimes_own_loop(lm: ScriptedLM) -> None:
    """If this failed, one who forgets the await would not be told what to write instead."""
    async with InProcessRuntime(lm) as runtime:
        adapter = runtime.adapter()
        session = await adapter.asession()
        program = await session.acreate_program("q -> a")
        calls: dict[str, Callable[[], Any]] = {
            "asession": adapter.session,
            "asessions": adapter.sessions,
            "aget": lambda: session.get("x"),
            "aset": lambda: session.set("x", 1),
            "aupdate": lambda: session.update("x", str),
            "achat": lambda: session.chat("x"),
            "aturns": session.turns,
            "ainsights": session.insights,
            "aexport": session.export,
            "adelete": session.delete,
            "acreate_program": lambda: session.create_program("q -> a"),
            "aexecute_program": lambda: adapter.execute_program(program.id, {"q": "x"}),
            "acall": lambda: program("x"),
            "achange": lambda: program.change(instructions="x"),
            "arollback": lambda: program.rollback(1),
            "aprogram": lambda: session.program(program.id),
        }
        for twin, call in calls.items():
            with pytest.raises(RuntimeError, match=rf"await {twin}\("):
                call()
        assert (await program.acall("x")).a == "to x"
