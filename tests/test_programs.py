"""Stored programs: made, called, changed, rolled back, found by others."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import dspex
from dspex.program.document import decoded
from dspex.testing import Failure, InProcessRuntime, ScriptedLM


def said(request: Any) -> dict[str, str]:
    """Answers each output with its name and what it was asked."""
    return {name: f"{name} of {'/'.join(request.inputs.values())}" for name in request.outputs}


@pytest.fixture(scope="module")
def lm() -> Iterator[ScriptedLM]:
    """A model that tells what it was asked."""
    with ScriptedLM(said) as opened:
        yield opened


@pytest.fixture(scope="module")
def runtime(lm: ScriptedLM) -> Iterator[InProcessRuntime]:
    """A runtime in this process."""
    settings = dspex.Settings(allow_modules=["tests.learners", "tests.agent_tools"], file=False)
    with InProcessRuntime(lm, settings=settings) as opened:
        yield opened


@pytest.fixture
def adapter(runtime: InProcessRuntime, request: pytest.FixtureRequest) -> dspex.DSPyAdapter:
    """A tenant for each test."""
    return runtime.adapter(tenant=request.node.name[:200])


# Calls


def test_a_program_is_made_called_and_found_again(adapter: dspex.DSPyAdapter) -> None:
    """If this failed, a program would not outlive the call that made it."""
    session = adapter.session("mine")
    made = session.create_program("question -> answer", name="qa")
    assert (made.version, made.session_id, made.name) == (1, "mine", "qa")
    first = made(question="Why?")
    assert first.answer == "answer of Why?"
    assert (first.program_version, first.recorded) == (1, True)
    assert made("Why?").answer == first.answer
    for found in (session.program("qa"), session.program(made.id)):
        assert found.id == made.id
        assert found("How?").answer == "answer of How?"
    assert adapter.execute_program(made.id, {"question": "x"}, session_id="mine").answer == "answer of x"
    assert asyncio.run(made.acall("y")).answer == "answer of y"
    (listed,) = session.programs()
    assert listed == made.info()
    assert [turn.program_id for turn in session.turns()] == [made.id] * 6
    made.delete()
    with pytest.raises(dspex.UnknownProgram):
        made("z")
    with pytest.raises(dspex.UnknownProgram):
        made.delete()
    assert len(session.turns()) == 6, "what was said stays"


def test_nobody_else_finds_it(runtime: InProcessRuntime, adapter: dspex.DSPyAdapter) -> None:
    """If this failed, a customer could run, read or delete another's program."""
    program = adapter.session("s").create_program("q -> a", name="p")
    other = runtime.adapter(tenant="someone else")
    other.session("s")
    for refused in (
        lambda: other.execute_program(program.id, {"q": "x"}),
        lambda: other.session("s").program(program.id),
        lambda: other.session("s").program("p"),
        lambda: adapter.execute_program(program.id, {"q": "x"}, tenant="someone else"),
        lambda: adapter.session("another").program(program.id),
    ):
        with pytest.raises(dspex.UnknownProgram):
            refused()
    adapter.session("t")
    with pytest.raises(dspex.UnknownProgram):
        adapter.execute_program(program.id, {"q": "x"}, session_id="t")
    with pytest.raises(dspex.UnknownSession):
        adapter.execute_program(program.id, {"q": "x"}, session_id="never made")
    assert other.session("s").create_program("q -> a", name="p").id != program.id


def test_a_program_without_a_session(adapter: dspex.DSPyAdapter) -> None:
    """If this failed, a program could not be kept by its id alone."""
    program = adapter.create_program("q -> a")
    assert adapter.execute_program(program.id, {"q": "x"}).a == "a of x"
    assert program("y").recorded is None, "there is no conversation that it would be a turn of"
    identity = program.id
    del program
    gc.collect()
    assert adapter.execute_program(identity, {"q": "z"}).a == "a of z", "it lives on for an hour"


# Versions


def test_versions_are_made_and_rolled_back(adapter: dspex.DSPyAdapter, lm: ScriptedLM) -> None:
    """If this failed, a change for the worse could not be taken back."""
    program = adapter.create_program("question -> answer")
    assert program.change(instructions="Be brief.") == 2
    assert program.change(modules=["ChainOfThought"]) == 3
    assert program("x").reasoning == "reasoning of x"
    assert "Be brief." in lm.requests[-1].system
    assert program.rollback(1) == 1
    assert program("x").program_version == 1
    assert "Be brief." not in lm.requests[-1].system
    assert program.change(instructions="In French.") == 4, "numbers are not used again"
    assert program.info().versions == [1, 2, 3, 4]
    for wrong in (0, 5, True, "2"):
        with pytest.raises(dspex.InvalidOption, match="version"):
            program.rollback(wrong)  # type: ignore[arg-type]
    with pytest.raises(dspex.InvalidOption, match="nothing to change"):
        program.change()
    with pytest.raises(dspex.InvalidOption, match="max_hops"):
        program.change(options={"max_hops": 2})
    assert program.info().version == 4, "what is refused changes nothing"


def test_changes_at_once_are_all_versions(adapter: dspex.DSPyAdapter) -> None:
    """If this failed, of two people who change a program one would lose his change."""
    program = adapter.create_program("q -> a")
    made: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: made.append(program.change(instructions=f"Take {n}.")))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == list(range(2, 10))
    assert program.info().versions == list(range(1, 10))


def test_names_are_used_once(adapter: dspex.DSPyAdapter) -> None:
    """If this failed, a name would find one of two programs."""
    session = adapter.session("s")
    session.create_program("q -> a", name="p")
    with pytest.raises(dspex.InvalidOption, match="'p' already"):
        session.create_program("q -> a", name="p")
    for name in ("", "x" * 201, "a\0b", 5):
        with pytest.raises(dspex.InvalidInput, match="name"):
            session.create_program("q -> a", name=name)


# Stages


def test_stages_get_what_the_one_before_gave(adapter: dspex.DSPyAdapter, lm: ScriptedLM) -> None:
    """If this failed, a later stage would not know what the one before has found out."""
    program = adapter.create_program("context, question -> answer", modules=["ChainOfThought", "Predict"])
    response = program(context="C", question="Q")
    assert lm.requests[-1].inputs == {
        "context": "C",
        "question": "Q",
        "previous_reasoning": "reasoning of C/Q",
        "previous_answer": "answer of C/Q",
    }
    assert response.answer == "answer of C/Q/reasoning of C/Q/answer of C/Q"
    first, second = response.stages
    assert first.outputs == {"reasoning": "reasoning of C/Q", "answer": "answer of C/Q"}
    assert (second.module, second.outputs) == ("dspy.Predict", response.outputs)
    assert first.usage.total_tokens > 0
    assert first.usage + second.usage == response.usage
    assert len(response.requests) == 2


def test_a_stage_of_its_own(adapter: dspex.DSPyAdapter, lm: ScriptedLM) -> None:
    """If this failed, a stage could not have its own signature, options or LM."""
    with ScriptedLM(lambda q: dict.fromkeys(q.outputs, "from the other")) as other:
        program = adapter.create_program(
            "text -> letter",
            modules=[
                dspex.Stage("ChainOfThought", signature="text -> topic: str, words: int", lm=other),
                {
                    "module": "Predict",
                    "signature": "topic, previous_words: int, text -> letter",
                    "options": {"temperature": 0.7},
                    "instructions": "Write.",
                },
            ],
        )
        other_says = {"topic": "T", "words": 3, "reasoning": "r"}
        with ScriptedLM([other_says]) as once:
            program.change(
                modules=[
                    dspex.Stage("ChainOfThought", signature="text -> topic: str, words: int", lm=once),
                    dspex.Stage(
                        "Predict",
                        signature="topic, previous_words: int, text -> letter",
                        options={"temperature": 0.7},
                        instructions="Write.",
                    ),
                ]
            )
            response = program(text="Hello")
    asked = lm.requests[-1]
    assert asked.inputs == {"topic": "T", "previous_words": "3", "text": "Hello"}
    assert asked.params["temperature"] == 0.7
    assert "Write." in asked.system
    assert response.outputs == {"letter": "letter of T/3/Hello"}


def test_ones_own_module_is_a_stage(adapter: dspex.DSPyAdapter) -> None:
    """If this failed, a program could not be made of modules of DSPy's and of one's own."""
    program = adapter.create_program(
        "question -> answer",
        modules=["Predict", dspex.Stage("tests.learners:Sized", options={"arguments": {"size": 2}})],
    )
    response = program(question="x")
    assert (response.size, response.question) == (2, "x")


def test_a_failed_stage_says_which(adapter: dspex.DSPyAdapter) -> None:
    """If this failed, nobody could tell which part failed, nor what the others have cost."""
    with ScriptedLM([{"answer": "one"}, Failure(400)]) as lm:
        program = adapter.create_program("question -> answer", modules=["Predict", "Predict"], lm=lm)
        with pytest.raises(dspex.LMInvalidRequest) as error:
            program("x")
    assert error.value.details["stage"] == 2
    assert error.value.details["requests"][0]["status"] == "ok"


def test_one_deadline_for_all_stages(adapter: dspex.DSPyAdapter) -> None:
    """If this failed, a program of n stages could take n times its deadline."""
    release = threading.Event()

    def slow(request: Any) -> dict[str, str]:
        if "previous_answer" in request.inputs:
            release.wait(30)
        return dict.fromkeys(request.outputs, "x")

    try:
        with ScriptedLM(slow) as lm:
            program = adapter.create_program("question -> answer", modules=["Predict", "Predict"], lm=lm)
            with pytest.raises(dspex.PythonTimeout) as error:
                adapter.execute_program(program.id, {"question": "x"}, timeout=1.0)
            release.set()
    finally:
        release.set()
    assert error.value.details["stage"] == 2


@pytest.mark.parametrize(
    ("how", "kind", "says"),
    [
        ({"signature": "a b"}, dspex.InvalidSignature, "->"),
        ({"modules": []}, dspex.InvalidOption, "1 to 32"),
        ({"modules": ["Predict"] * 33}, dspex.InvalidOption, "1 to 32"),
        ({"modules": ["Predikt"]}, dspex.ModuleNotFound, "Predict"),
        ({"modules": [{"modul": "Predict"}]}, dspex.InvalidOption, "modul"),
        ({"modules": ["os:system"]}, dspex.NotAllowed, "os"),
        (
            {"modules": ["Predict", {"signature": "zz -> b"}]},
            dspex.InvalidSignature,
            "'zz' that nobody gives",
        ),
        ({"modules": ["Predict", "Predict"], "options": {"n": 2}}, dspex.InvalidOption, "given to each"),
        ({"options": {"max_hops": 1}}, dspex.InvalidOption, "max_hops"),
        ({"instructions": " "}, dspex.InvalidOption, "instructions"),
        ({"demos": [{"x": 1}]}, dspex.InvalidOption, "demo 0 has x"),
        ({"demos": [{"q": 1}]}, dspex.InvalidOption, "at least one input and one output"),
        ({"demos": {"q": 1}}, dspex.InvalidOption, "list of dicts"),
        ({"lm": "no such"}, dspex.InvalidOption, "no such"),
        ({"tools": ["tests.agent_tools:total"]}, dspex.InvalidOption, "calls no tools"),
        ({"state": "/nowhere.json"}, dspex.InvalidOption, "cannot be read"),
        ({"modules": "ReAct"}, dspex.InvalidOption, "needs tools"),
        (
            {"modules": "BestOfN", "options": {"N": 2, "reward": lambda *_: 1.0}},
            dspex.InvalidOption,
            "import path",
        ),
    ],
)
def test_what_is_wrong_is_known_when_it_is_made(
    adapter: dspex.DSPyAdapter, how: dict[str, Any], kind: type[dspex.DspexError], says: str
) -> None:
    """If this failed, a slip would be found by the first customer."""
    with pytest.raises(kind) as error:
        adapter.create_program(**{"signature": "q -> a", **how})
    assert says in error.value.message


# What only this process has


def test_functions_have_to_be_given_again_elsewhere(tmp_path: Path) -> None:
    """If this failed, a service that is started again would call nothing, or something else."""

    def shout(text: str) -> str:
        """Say it loud."""
        return text.upper()

    def reply(request: Any) -> dict[str, Any]:
        if "next_tool_name" in request.outputs:
            done = "HEY" in request.prompt
            call = ("finish", {}) if done else ("shout", {"text": "hey"})
            return {"next_thought": "t", "next_tool_name": call[0], "next_tool_args": call[1]}
        return dict.fromkeys(request.outputs, "HEY" if "HEY" in request.prompt else "?")

    store = tmp_path / "store.db"
    with ScriptedLM(reply) as lm:
        with InProcessRuntime(lm, store=store) as runtime:
            session = runtime.adapter().session("s")
            program = session.create_program("q -> a", modules="ReAct", tools=[shout], name="p", lm=lm)
            assert program("x").a == "HEY"
        with InProcessRuntime(lm, store=store) as runtime:
            session = runtime.adapter().session("s")
            with pytest.raises(dspex.InvalidInput, match="shout"):
                runtime.adapter().execute_program(program.id, {"q": "x"}, lm=lm)
            with pytest.raises(dspex.InvalidOption, match="calls no other"):
                session.program("p", tools=[dspex.Tool(shout, name="other")])
            with pytest.raises(dspex.LMNotConfigured, match="given again"):
                session.program("p", tools=[shout])("x")
            again = session.program("p", tools=[shout])
            assert runtime.adapter().execute_program(again.id, {"q": "x"}, lm=lm).a == "HEY"
            assert again.change(lm=None) == 2
            assert again("x").a == "HEY"


# Documents


def test_a_document_is_the_program(runtime: InProcessRuntime, adapter: dspex.DSPyAdapter) -> None:
    """If this failed, a program would be another one on another machine."""
    program = adapter.session("s").create_program(
        {"inputs": {"q": {"type": "str", "description": "The question."}}, "outputs": {"a": "list[int]"}},
        modules=[
            "ChainOfThought",
            dspex.Stage("Predict", options={"temperature": 0.5}, lm="openai/gpt-5-mini"),
        ],
        demos=[{"q": "one", "a": [1]}],
        instructions="Count.",
        name="counter",
    )
    document = json.loads(json.dumps(program.export()))
    copy = runtime.adapter(tenant="a copy").import_program(document, session="s")
    assert copy.name == "counter"
    assert copy.export() == document
    assert _stored(runtime, program) == _stored(runtime, copy)


def _stored(runtime: InProcessRuntime, program: dspex.Program) -> Any:
    def work(connection: Any) -> bytes:
        from dspex.session import programs

        found = programs.document(connection, program.id, program.version)
        assert found is not None
        return found

    return decoded(runtime.portal.run(lambda: runtime.core.sessions.read(work), "-"))


GOOD: Mapping[str, Any] = {"dspex_program": 1, "signature": "q -> a", "stages": [{"module": "dspy.Predict"}]}


@pytest.mark.parametrize(
    "document",
    [
        None,
        5,
        [],
        {},
        {**GOOD, "dspex_program": 2},
        {**GOOD, "extra": 1},
        {**GOOD, "name": 5},
        {**GOOD, "name": "x" * 300},
        {**GOOD, "signature": 5},
        {**GOOD, "signature": "q -> a: os.system"},
        {**GOOD, "signature": {"text": 5}},
        {**GOOD, "signature": {"text": "q -> a", "more": 1}},
        {**GOOD, "signature": {"fields": [[["q", "str"]], [["a", "os.system"]]]}},
        {**GOOD, "signature": {"fields": {"q": 1}}},
        {**GOOD, "lm": "x"},
        {**GOOD, "lm": {"held": "x"}},
        {**GOOD, "lm": {"options": {"model": "openai/x", "api_key": 5}}},
        {**GOOD, "lm": {"options": {"modell": "openai/x"}}},
        {**GOOD, "lm": {"options": {"model": "openai/x", "api_key": "env:HOME"}}},
        {**GOOD, "lm": {"options": {"model": "openai/x", "base_url": "http://elsewhere/v1"}}},
        {
            **GOOD,
            "lm": {"options": {"model": "a/b", "extraction_lm": {"model": "a/c", "base_url": "http://h"}}},
        },
        {**GOOD, "stages": []},
        {**GOOD, "stages": "dspy.Predict"},
        {**GOOD, "stages": [5]},
        {**GOOD, "stages": [{"module": 5}]},
        {**GOOD, "stages": [{"module": "os:system"}]},
        {**GOOD, "stages": [{"module": "dspy.Predict", "state": "/etc/passwd"}]},
        {**GOOD, "stages": [{"module": "dspy.Predict", "tools": [5]}]},
        {**GOOD, "stages": [{"module": "dspy.Predict", "options": [1]}]},
        {**GOOD, "stages": [{"module": "dspy.Predict", "options": {"encoded": "!"}}]},
        {**GOOD, "stages": [{"module": "dspy.Predict", "options": {"encoded": "wQ=="}}]},
        {**GOOD, "stages": [{"module": "dspy.Predict", "demos": {"q": 1}}]},
        {**GOOD, "stages": [{"module": "dspy.Predict", "demos": [5]}]},
        {**GOOD, "stages": [{"module": "dspy.Predict", "sandbox": "none"}]},
        {**GOOD, "stages": [{"module": "dspy.Predict", "instructions": 5}]},
        {**GOOD, "stages": [{"module": "dspy.Predict"}] * 10_000},
    ],
)
def test_hostile_documents_are_refused(adapter: dspex.DSPyAdapter, document: Any) -> None:
    """If this failed, a document from elsewhere could read a file, import a module, or end in a traceback."""
    with pytest.raises(dspex.DspexError) as error:
        adapter.import_program(document)
    assert isinstance(error.value, dspex.Refused)
    assert adapter.sessions() == [], "nothing was made for it"
