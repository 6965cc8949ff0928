"""However a call in a session ends, its turn is closed once, and the next one is not kept waiting."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection

import dspex
from dspex.runtime.question import Question
from dspex.runtime.stages import single
from dspex.runtime.steps import Ask, OnLoop, Step
from dspex.runtime.turns import InSession, in_session
from dspex.session import past, sessions, turns
from dspex.session.quotas import Quotas
from dspex.session.sessions import Wanted
from dspex.session.store import Store
from dspex.session.turns import Closing, Opened, Opening
from dspex.testing import InProcessRuntime, ScriptedLM
from tests.processes import until

CHAT = "history: dspy.History, message -> reply"
ID = "s"


@pytest.fixture(scope="module")
def runtime() -> Iterator[InProcessRuntime]:
    """A runtime in this process."""
    with ScriptedLM(lambda request: {"reply": "yes"}) as lm, InProcessRuntime(lm) as opened:
        yield opened


@pytest.fixture
def session(runtime: InProcessRuntime, request: pytest.FixtureRequest) -> dspex.Session:
    """A session for each test."""
    return runtime.adapter().session(request.node.name)


def test_ctrl_c_closes_a_turn(session: dspex.Session) -> None:
    """If this failed, who stops an answer would block his session, and see it run for ever."""
    release = threading.Event()

    def reply(_: Any) -> dict[str, str]:
        os.kill(os.getpid(), signal.SIGINT)
        release.wait(30)
        return {"reply": "too late"}

    with ScriptedLM(reply) as lm:
        with pytest.raises(KeyboardInterrupt):
            session.chat("x", lm=lm)
        release.set()
    assert session.chat("y", timeout=20).reply == "yes"
    assert [turn.status for turn in session.turns()] == ["cancelled", "ok"]


def steps_of(runtime: InProcessRuntime, session: dspex.Session) -> Iterator[tuple[Any, Step]]:
    """The steps of a chat, each done before the next is given; a call is not sent."""
    question = Question("x", signature=CHAT)
    steps = in_session(runtime.core, InSession("", session.id), question, single)
    step = next(steps)
    while True:
        yield steps, step
        assert isinstance(step, OnLoop)
        step = steps.send(runtime.portal.run(step.work, "-"))


def test_a_call_that_is_dropped_between_two_steps(runtime: InProcessRuntime, session: dspex.Session) -> None:
    """If this failed, a Ctrl-C at a bad moment would keep the session's next call waiting for ever."""
    for steps, step in steps_of(runtime, session):
        if isinstance(step, Ask):
            assert session.turns()[-1].status == "running"
            steps.close()
            break
    assert session.chat("y", timeout=20).reply == "yes"
    until(lambda: [turn.status for turn in session.turns()] == ["cancelled", "ok"])


def test_a_close_that_is_never_begun(runtime: InProcessRuntime, session: dspex.Session) -> None:
    """If this failed, a second Ctrl-C, while the first is written, would leave the turn open."""
    for steps, step in steps_of(runtime, session):
        if isinstance(step, Ask):
            assert isinstance(steps.throw(KeyboardInterrupt()), OnLoop)
            with pytest.raises(KeyboardInterrupt):
                steps.throw(KeyboardInterrupt())
            break
    assert session.chat("y", timeout=20).reply == "yes"
    until(lambda: [turn.status for turn in session.turns()] == ["cancelled", "ok"])


def test_a_call_that_is_dropped_before_its_turn_is_open(
    runtime: InProcessRuntime, session: dspex.Session
) -> None:
    """If this failed, a call that is given up at once would be waited for when the runtime closes."""
    for steps, _ in steps_of(runtime, session):
        steps.close()
        break
    assert session.turns() == []
    assert runtime.core.turns.open_calls == 0


# In the store


def opening(number: int) -> Opening:
    """A call that is to be a turn."""
    return Opening("", ID, "me", f"call {number}", None, None, "m", b"\x80", b"\x80", time.time(), None)


def closing(opened: Opened, number: int) -> Closing:
    """Its answer."""
    return Closing(opened, f"call {number}", "me", "ok", time.time(), 1.0, outputs=b"\x80", shape=b"\x80")


@pytest.mark.anyio
async def test_turns_that_are_undone_at_once(store: Store) -> None:
    """If this failed, two who undo at the same moment would remove one turn, or one that has just begun."""

    def work(connection: Connection) -> None:
        defaults = {"ttl": None, "record": "all", "metadata": b"\x80", "lm": None}
        sessions.make_or_find(connection, Wanted("", ID, False, {}, defaults), Quotas(9, 9), time.time())
        for number in range(6):
            opened = turns.open_turn(connection, opening(number))
            assert opened is not None
            assert turns.close_turn(connection, closing(opened, number))

    await store.write(work)
    undone = await asyncio.gather(
        *(store.write(lambda connection: past.undo(connection, "", ID, time.time())) for _ in range(6))
    )
    assert sorted(number or 0 for number in undone) == [1, 2, 3, 4, 5, 6]
    assert await store.read(lambda c: past.listed(c, "", ID, time.time(), None, None)) == []
