"""Sessions whose process dies, and sessions that two processes have at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import dspex
from tests.chaos.session_process import Process
from tests.chaos.talks import heard, reply
from tests.processes import until
from tests.provider import Provider

pytestmark = pytest.mark.chaos

Start = Callable[[], Process]


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(reply) as running:
        yield running


@pytest.fixture(params=["file", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What ``store=`` takes: a store that outlives its processes."""
    if request.param == "file":
        return str(tmp_path / "dspex.db")
    database: str = request.getfixturevalue("database")
    return database


@pytest.fixture
def start(shared: str, provider: Provider) -> Iterator[Start]:
    """Starts processes that share the store; what is left of them is killed."""
    started: list[Process] = []

    def one() -> Process:
        started.append(Process(shared, provider.base_url))
        return started[-1]

    yield one
    for process in started:
        process.kill()


def look(shared: str, session_id: str) -> tuple[list[dspex.Turn], dict[str, object]]:
    """The turns and variables of a session, as a third process would see them."""
    with dspex.Runtime(store=shared, pools={"general": dspex.PoolOptions(workers=1)}) as runtime:
        session = runtime.adapter().session(session_id)
        return session.turns(), session.variables()


def test_a_process_that_is_killed_in_the_middle_of_a_turn(
    shared: str, provider: Provider, start: Start
) -> None:
    """If this failed, a service that crashes would lose conversations, or tell of turns that never ended."""
    first = start()
    first.do("put", session="s", name="colour", value="green")
    assert first.do("chat", session="s", message="ask-1") == {"reply": "ask-1", "recorded": True}
    first.ask("chat", session="s", message="hold-2")
    until(lambda: provider.in_flight == 1, 60)
    first.kill()
    second = start()
    assert second.do("chat", session="s", message="ask-3")["recorded"]
    second.close()
    turns, variables = look(shared, "s")
    assert [(turn.number, turn.status) for turn in turns] == [(1, "ok"), (2, "interrupted"), (3, "ok")]
    assert [turn.inputs for turn in turns] == [
        {"message": f"{text}"} for text in ("ask-1", "hold-2", "ask-3")
    ]
    assert variables == {"colour": "green"}
    assert heard(provider)[-1] == (["ask-1"], "ask-3"), "an answer that nobody had is no history"


def test_a_lease_of_a_killed_process_is_free(provider: Provider, start: Start) -> None:
    """If this failed, the crash of one process would block a customer's session in all others."""
    first, second = start(), start()
    second.do("chat", session="s", message="ask-1")
    first.ask("chat", session="s", message="hold-2")
    until(lambda: provider.in_flight == 1, 60)
    waiting = second.ask("chat", session="s", message="ask-3", timeout=30.0)
    first.kill()
    assert second.result(waiting)["reply"] == "ask-3"
    assert heard(provider)[-1] == (["ask-1"], "ask-3")


def test_turns_of_two_processes_are_in_order(shared: str, provider: Provider, start: Start) -> None:
    """If this failed, answers of one session would not know of one another, or a turn would be lost."""
    both = [start(), start()]
    asked = [
        (process, process.ask("chat", session="s", message=f"ask-{which}.{number}"))
        for number in range(10)
        for which, process in enumerate(both)
    ]
    for process, number in asked:
        assert process.result(number)["recorded"]
    told = heard(provider)
    assert len(told) == 20
    for place, one in enumerate(told):
        assert one.history == [before.message for before in told[:place]]
    turns, _ = look(shared, "s")
    assert [turn.number for turn in turns] == list(range(1, 21))
    assert [turn.inputs for turn in turns] == [{"message": one.message} for one in told]
    assert [turn.outputs for turn in turns] == [{"reply": one.message} for one in told]


def test_increments_of_two_processes(shared: str, start: Start) -> None:
    """If this failed, a change of one process would be overwritten by another's."""
    both = [start(), start()]
    asked = [(process, process.ask("add", session="s", times=10)) for process in both]
    seen = [value for process, number in asked for value in process.result(number)]
    assert sorted(seen) == list(range(1, 21))
    assert look(shared, "s")[1] == {"count": 20}


def test_a_program_goes_on_in_another_process(shared: str, provider: Provider, start: Start) -> None:
    """If this failed, a restarted service would have lost its programs, or run an old version of one."""
    first, second = start(), start()
    program = first.do("create", session="s", name="answerer")
    assert second.do("execute", session="s", program=program, question="ask-1")["reply"] == "ask-1"
    assert "version-one" in str(provider.requests[-1].body)
    assert first.do("change", session="s", name="answerer", instructions="version-two") == 2
    assert second.do("execute", session="s", program=program, question="ask-2")["recorded"]
    assert "version-two" in str(provider.requests[-1].body)
    second.ask("execute", session="s", program=program, question="hold-3")
    until(lambda: provider.in_flight == 1, 60)
    for process in (first, second):
        process.kill()
    third = start()
    assert third.do("execute", session="s", program=program, question="ask-4")["reply"] == "ask-4"
    assert "version-two" in str(provider.requests[-1].body)
    turns, _ = look(shared, "s")
    assert [(turn.status, turn.program_id, turn.version) for turn in turns] == [
        ("ok", program, 1),
        ("ok", program, 2),
        ("interrupted", program, 2),
        ("ok", program, 2),
    ]
