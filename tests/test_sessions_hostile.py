"""Sessions and programs that are given what nobody should give them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

import dspex
from dspex.testing import InProcessRuntime, ScriptedLM

IDS: list[Any] = ["\ud800", "a\0b", "", "x" * 201, 5, b"x"]


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
    """A runtime in this process, whose histories have room for about 4 KiB."""
    with InProcessRuntime(lm, settings=dspex.Settings(history_tokens=1000, file=False)) as opened:
        yield opened


@pytest.fixture
def session(runtime: InProcessRuntime, request: pytest.FixtureRequest) -> dspex.Session:
    """A session for each test."""
    return runtime.adapter().session(request.node.name[:200])


@pytest.mark.parametrize("wrong", IDS)
def test_what_is_no_id_is_refused_everywhere(
    runtime: InProcessRuntime, session: dspex.Session, wrong: Any
) -> None:
    """If this failed, an id from a request would end in an error of a database's driver."""
    adapter, program = runtime.adapter(), session.create_program("question -> answer")
    for attempt in (
        lambda: adapter.execute_program(wrong, {"question": "Why?"}),
        lambda: adapter.execute_program(program.id, {"question": "Why?"}, session_id=wrong),
        lambda: adapter.generate("Why?", session=wrong),
        lambda: adapter.create_program("question -> answer", session=wrong),
        lambda: session.program(wrong),
    ):
        with pytest.raises(dspex.InvalidInput, match=r"session's id|program's (id|name)"):
            attempt()


def test_numbers_beyond_those_of_databases_are_taken(session: dspex.Session) -> None:
    """If this failed, a page number from a request would end in an OverflowError."""
    session.chat("Hello.")
    assert len(session.turns(limit=2**70)) == 1
    assert len(session.turns(before=2**70)) == 1


def test_keys_that_json_does_not_have_can_be_exported(session: dspex.Session) -> None:
    """If this failed, one odd key would keep a whole session from being exported."""
    odd = {("a", 1): {None: "nothing"}, "plain": [1]}
    session.set("odd", odd)
    session._adapter.generate(inputs={"prompt": odd}, session=session)
    exported = session.export()
    expected = {'["a",1]': {"null": "nothing"}, "plain": [1]}
    assert exported["variables"]["odd"] == expected
    assert exported["turns"][0]["inputs"]["prompt"] == expected
    json.dumps(exported, allow_nan=False)


def test_an_input_that_cannot_be_measured_is_refused_as_anywhere(session: dspex.Session) -> None:
    """If this failed, an object's own error would come out where invalid_input is promised."""

    class Odd:
        def __len__(self) -> int:
            raise ValueError("nobody knows")

    with pytest.raises(dspex.InvalidInput, match="cannot be sent"):
        session._adapter.generate(inputs={"prompt": Odd()}, session=session)


def test_the_session_of_another_tenant_is_unknown_to_create_program(
    runtime: InProcessRuntime, session: dspex.Session
) -> None:
    """If this failed, a tenant's adapter would write into another one's session, and could not call it."""
    theirs = runtime.adapter(tenant="another")
    with pytest.raises(dspex.UnknownSession):
        theirs.create_program("question -> answer", session=session)
    with pytest.raises(dspex.UnknownSession):
        theirs.generate("Why?", session=session)
    assert session.programs() == []
