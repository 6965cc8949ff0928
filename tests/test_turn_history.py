"""What a call is told of its session: which turns, how many of them, in what order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import dspex
from dspex.testing import InProcessRuntime, ScriptedLM

CHAT = "history: dspy.History, message -> reply"


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
    """A runtime in this process with a short history: three turns, 400 bytes."""
    settings = dspex.Settings(
        history_turns=3, history_tokens=100, allow_modules=["tests.conversing"], file=False
    )
    with InProcessRuntime(lm, settings=settings) as opened:
        yield opened


@pytest.fixture
def session(runtime: InProcessRuntime, request: pytest.FixtureRequest) -> dspex.Session:
    """A session for each test."""
    return runtime.adapter().session(request.node.name[:200])


def told(lm: ScriptedLM) -> list[str]:
    """What the user said before, as the model was told it last."""
    users = [message for message in lm.requests[-1].messages if message["role"] == "user"]
    return [str(message["content"]).split("]]\n")[1].split("\n")[0] for message in users[:-1]]


def test_the_newest_turns_are_told(lm: ScriptedLM, session: dspex.Session) -> None:
    """If this failed, a long conversation would cost more with each turn, or be told out of order."""
    for number in range(5):
        session.chat(f"m{number}")
    assert told(lm) == ["m1", "m2", "m3"]


def test_what_is_told_has_an_end(lm: ScriptedLM, session: dspex.Session) -> None:
    """If this failed, long turns would be more than the model takes."""
    session.chat("first")
    session.chat("x" * 100)
    session.chat("y" * 80)
    session.chat("last")
    assert told(lm) == ["y" * 80], (
        "the one before would be more than 400 bytes with it, and what is older is not told without it"
    )
    session.chat("z" * 500)
    session.chat("last")
    assert told(lm) == [], "not even the latest has room"


def test_turns_of_other_signatures_take_no_room(
    lm: ScriptedLM, runtime: InProcessRuntime, session: dspex.Session
) -> None:
    """If this failed, a chat would forget what was said before a large call, or before some small ones."""
    session.chat("remember me")
    runtime.adapter().generate("z" * 1000, signature="q -> a", session=session)
    for number in range(10):
        runtime.adapter().generate(f"{number}", signature="message -> other", session=session)
    session.chat("again")
    assert told(lm) == ["remember me"]
    session.chat("x")
    session.chat("y")
    session.chat("z")
    assert told(lm) == ["again", "x", "y"]


@pytest.mark.parametrize(
    "signature",
    [
        CHAT,
        {"inputs": {"history": "dspy.History", "message": "str"}, "outputs": {"reply": "str"}},
        "tests.conversing:Talk",
        "message, before: dspy.History -> reply, mood",
    ],
    ids=["text", "dict", "path", "other order"],
)
def test_every_form_of_signature_is_told(lm: ScriptedLM, session: dspex.Session, signature: Any) -> None:
    """If this failed, only signatures of one form would have a history."""
    session.chat("one")
    assert session.chat("two", signature=signature).reply == "to two"
    assert told(lm) == ["one"]
    assert session.turns()[-1].inputs == {"message": "two"}, "the history is kept already"


def test_only_whole_turns_are_told(lm: ScriptedLM, runtime: InProcessRuntime) -> None:
    """If this failed, shapes of what was said would be told as if they had been said."""
    session = runtime.adapter().session("shapes", record="shape")
    session.chat("hidden")
    runtime.adapter().session("shapes", record="all")
    session.chat("kept")
    session.chat("next")
    assert told(lm) == ["kept"]


def test_what_is_undone_is_not_told(lm: ScriptedLM, session: dspex.Session) -> None:
    """If this failed, a slip of the tongue could not be taken back."""
    session.chat("one")
    session.chat("slip")
    assert session.undo() == 2
    session.chat("two")
    assert told(lm) == ["one"]
    session.reset()
    session.chat("new")
    assert told(lm) == []


def test_a_stored_program_is_told(lm: ScriptedLM, runtime: InProcessRuntime, session: dspex.Session) -> None:
    """If this failed, a program that a session keeps would not know what was said in it."""
    session.chat("one")
    program = session.create_program(CHAT, modules=["dspy.Predict"])
    program("two")
    assert told(lm) == ["one"]
    runtime.adapter().execute_program(program.id, {"message": "three"}, session_id=session.id)
    assert told(lm) == ["one", "two"]
    assert [turn.program_id for turn in session.turns()] == [None, program.id, program.id]


def test_pictures_are_told(lm: ScriptedLM, session: dspex.Session) -> None:
    """If this failed, the model would not see again what it was shown."""
    picture = dspex.Image("data:image/png;base64,iVBORw0KGgo=")
    signature = "history: dspy.History, picture: Image, question -> answer"
    session.chat("What?", signature=signature, inputs={"picture": picture})
    session.chat(
        "And now?", signature=signature, inputs={"picture": dspex.Image("https://example.com/b.png")}
    )
    parts = [part for message in lm.requests[-1].messages[1:-1] for part in message["content"]]
    assert picture.url in str(parts)
    assert session.turns()[0].inputs == {"picture": picture, "question": "What?"}
