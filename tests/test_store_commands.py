"""The original's commands about programs and sessions, which the supervisor answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

import dspex
from dspex.testing import InProcessRuntime, ScriptedLM


@pytest.fixture(scope="module")
def runtime() -> Iterator[InProcessRuntime]:
    """A runtime in this process; its LM answers with the name of the output."""
    with ScriptedLM(lambda q: dict.fromkeys(q.outputs, "said")) as lm, InProcessRuntime(lm) as opened:
        yield opened


@pytest.fixture
def pool(runtime: InProcessRuntime) -> Any:
    """Its pool."""
    return runtime.pool("general")


def test_a_program_from_its_making_to_its_end(pool: Any) -> None:
    """If this failed, a client of the original's commands could not use stored programs."""
    made = pool.execute(
        "create_program",
        {"signature": "question -> answer", "session_id": "s", "name": "qa", "modules": ["ChainOfThought"]},
    )
    assert made["session_id"] == "s"
    assert made["version"] == 1
    program = made["program_id"]
    answered = pool.execute("execute_program", {"program_id": program, "inputs": {"question": "Why?"}})
    assert answered == {"reasoning": "said", "answer": "said"}
    (listed,) = pool.execute("list_programs", {"session_id": "s"})
    assert listed == pool.execute("get_program_info", {"program_id": program})
    assert json.loads(json.dumps(listed))["modules"] == ["dspy.ChainOfThought"]
    assert pool.execute("delete_program", {"program_id": program}) == {"deleted": program}
    with pytest.raises(dspex.UnknownProgram):
        pool.execute("execute_program", {"program_id": program, "inputs": {"question": "Why?"}})
    assert pool.execute("cleanup_session", {"session_id": "s"}) == {"deleted": "s"}
    with pytest.raises(dspex.UnknownSession):
        pool.execute("list_programs", {"session_id": "s"})


def test_commands_in_a_session(runtime: InProcessRuntime, pool: Any) -> None:
    """If this failed, what is run in a session would be no turn of it, or belong to another."""
    made = pool.execute_in_session("mine", "create_program", {"signature": "q -> a"})
    assert made["session_id"] == "mine"
    assert pool.execute_in_session(
        "mine", "execute_program", {"program_id": made["program_id"], "prompt": "x"}
    ) == {"a": "said"}
    assert pool.execute_in_session("mine", "execute_module", {"signature": "q -> a", "prompt": "y"}) == {
        "a": "said"
    }
    assert pool.execute_in_session("mine", "echo", {"z": 1}) == {"z": 1}
    turns = runtime.adapter().session("mine").turns()
    assert [turn.inputs for turn in turns] == [{"q": "x"}, {"q": "y"}]
    ask = {"program_id": made["program_id"], "prompt": "x"}
    pool.execute_in_session("yours", "echo", {})
    with pytest.raises(dspex.UnknownProgram):
        pool.execute_in_session("yours", "execute_program", ask)
    with pytest.raises(dspex.UnknownProgram):
        pool.execute("execute_program", {"program_id": made["program_id"]}, tenant="other")


def test_the_twins(runtime: InProcessRuntime) -> None:
    """If this failed, the commands would block an event loop, or not be there on one."""

    async def talk() -> Any:
        pool = runtime.pool()
        made = await pool.aexecute("create_program", {"signature": "q -> a"})
        assert await pool.aexecute("execute_program", {"program_id": made["program_id"], "prompt": "x"}) == {
            "a": "said"
        }
        await pool.aexecute_in_session("loop", "echo", {})
        return await pool.aexecute_in_session("loop", "list_programs")

    assert asyncio.run(talk()) == []


@pytest.mark.parametrize(
    ("command", "args", "kind", "says"),
    [
        ("create_program", {"signatur": "q -> a"}, dspex.InvalidInput, "signatur"),
        ("create_program", {"signature": "q a"}, dspex.InvalidSignature, "->"),
        ("create_program", {"signature": "q -> a", "tools": [print]}, dspex.InvalidInput, "import paths"),
        (
            "create_program",
            {"signature": "q -> a", "modules": [{"module": "Predict", "state": "/etc/passwd"}]},
            dspex.InvalidInput,
            "no path",
        ),
        ("create_program", {"signature": "q -> a", "session_id": "x" * 201}, dspex.InvalidInput, "200"),
        ("execute_program", {}, dspex.InvalidInput, "program_id is missing"),
        ("execute_program", {"program_id": "nobody"}, dspex.UnknownProgram, "nobody"),
        ("list_programs", {"session_id": "never"}, dspex.UnknownSession, "never"),
        ("cleanup_session", {"session_id": "never"}, dspex.UnknownSession, "never"),
    ],
)
def test_what_is_wrong_is_refused(
    pool: Any, command: str, args: dict[str, Any], kind: type[dspex.DspexError], says: str
) -> None:
    """If this failed, a slip in a command would do something else, or a caller's text be opened as a file."""
    with pytest.raises(kind) as error:
        pool.execute(command, args)
    assert says in error.value.message
