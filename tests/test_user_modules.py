"""Programs of a user's own, named by import path, through a real runtime."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

import dspex
from tests.provider import Provider
from tests.user_runtime import ALLOWED, ask, provider, runtime, serving

__all__ = ["provider", "runtime", "serving"]  # fixtures


# What runs, and where


def test_a_program_runs_and_all_its_requests_are_counted(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a user's program would not run, or its cost not be known."""
    got = ask(runtime, "Router", "hello")
    assert got.outputs == {"team": "hello", "reply": "hello", "tone": "kind"}
    assert len(got.requests) == len(provider.requests) == 2
    assert got.usage.total_tokens == sum(request.usage.total_tokens for request in got.requests) > 0
    assert (got.content, got.model, got.attempts) == ("kind", "x", 1)


def test_aforward_is_preferred(runtime: dspex.Runtime) -> None:
    """If this failed, a program that awaits would run by its slower form, which no deadline can stop."""
    got = ask(runtime, "AsyncRouter", "hello", inputs={"count": 3})
    assert got.outputs == {"teams": ["hello"] * 3, "on": "MainThread"}
    assert len(got.requests) == 3


def test_a_program_finds_its_lm_wherever_it_goes(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a module inside another, or a thread, would have no LM or go uncounted."""
    got = ask(runtime, "Nested", "hi")
    assert got.outputs == {"team": "hi", "json": "hi", "threads": ["hi", "hi"], "many": ["hi", "hi"]}
    assert len(got.requests) == len(provider.requests) == 7


def test_shared_programs_are_made_once_and_share_a_worker(runtime: dspex.Runtime) -> None:
    """If this failed, a program declared shared would be made for each call, or block its worker's loop."""

    async def many() -> list[dspex.Response]:
        adapter = runtime.adapter()
        path = "tests.programs:SharedAsync"
        return await asyncio.gather(*[adapter.agenerate("hi", module=path) for _ in range(12)])

    found = asyncio.run(many())
    pid = runtime.pool().execute("get_stats")["pid"]
    assert {(got.answer, got.pid, got.made, got.on) for got in found} == {("hi", pid, 1, "MainThread")}
    in_thread = ask(runtime, "SharedSync", "hi")
    assert (in_thread.answer, in_thread.pid) == ("hi", pid)
    assert in_thread.on.startswith("dspex-command")


def test_a_subclass_of_a_shared_program_is_not_shared(runtime: dspex.Runtime) -> None:
    """If this failed, a subclass would be trusted with what only its parent was declared to be."""
    pid = runtime.pool().execute("get_stats")["pid"]
    assert ask(runtime, "SubOfShared", "hi").pid != pid
    assert ask(runtime, "SubOfShared", "hi", shared=True).pid == pid
    assert ask(runtime, "SharedSync", "hi", options={"shared": False}).pid != pid


def test_by_the_bridge(runtime: dspex.Runtime) -> None:
    """If this failed, the original's call would not know programs of one's own."""
    args = {"module": "tests.programs:Router", "inputs": {"message": "m", "tone": "short"}}
    pool = runtime.pool()
    assert pool.execute("execute_module", args)["tone"] == "short"
    assert pool.execute("run", {"module": "tests.programs:SharedSync", "prompt": "q"})["answer"] == "q"
    assert asyncio.run(pool.aexecute("execute_module", args))["team"] == "m"


def test_whatever_a_program_gives_has_a_json_form(runtime: dspex.Runtime) -> None:
    """If this failed, a key that JSON does not have would be a TypeError long after the program has run."""
    asked: dict[str, Any] = {
        "module": "tests.learners:Open",
        "arguments": {"by": {(1, "a"): 1, None: [{True: 2}], 3: 4}},
    }
    got = runtime.adapter().generate(**asked)
    assert got.given == asked["arguments"]
    plain = {"given": {"by": {'[1,"a"]': 1, "null": [{"true": 2}], "3": 4}}}
    assert got.to_dict()["outputs"] == plain
    assert json.loads(got.content) == plain["given"]
    assert runtime.adapter(serialization_format="json").generate(**asked).outputs == plain
    assert "given" in got
    assert [*got] == ["given"]
    silent = runtime.adapter().generate(module="tests.learners:Silent")
    assert (silent.outputs, silent.content) == ({}, "")


def test_without_an_lm(provider: Provider) -> None:
    """If this failed, a program that asks no LM would need one, or one that does not say what is missing."""
    with dspex.Runtime(
        pools={"general": dspex.PoolOptions(workers=1)},
        settings=dspex.Settings(allow_modules=ALLOWED, file=False, default_lm=None),
    ) as bare:
        got = ask(bare, "Typed", inputs={"number": 1, "tags": ["a"]})
        assert got.outputs == {"number": 1, "tags": ["a"], "other": "None", "free": 3}
        with pytest.raises(dspex.LMNotConfigured):
            ask(bare, "Router", "hello")
        with pytest.raises(dspex.LMNotConfigured):
            ask(bare, "SharedAsync", "hello")


# Inputs and options


def test_inputs_are_checked_like_those_of_a_signature(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a program would run, and pay, on inputs that it does not take."""
    cases: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
        ({"massage": "x"}, "did you mean 'message'", {"unknown": ["massage"], "known": ["message", "tone"]}),
        ({}, "missing input: 'message'", {"missing": ["message"]}),
        ({"message": 3}, "has to be str", {"field": "message", "expected": "str", "got": "int"}),
        ({"message": "x", "tone": "rude"}, "has to be Literal['kind', 'short']", {"field": "tone"}),
    ]
    for inputs, said, details in cases:
        with pytest.raises(dspex.InvalidInput) as caught:
            ask(runtime, "Router", inputs=inputs)
        assert said in caught.value.message
        assert caught.value.details.items() >= details.items()
        assert caught.value.request_id
    with pytest.raises(dspex.InvalidInput, match="could fill any of 'number', 'tags'"):
        ask(runtime, "Typed", "x")
    with pytest.raises(dspex.InvalidInput, match=r"'tags\[0\]' has to be list\[str\]"):
        ask(runtime, "Typed", inputs={"number": 1, "tags": [1]})
    with pytest.raises(dspex.InvalidInput, match="every input is given"):
        ask(runtime, "Router", "x", inputs={"message": "x", "tone": "kind"})
    with pytest.raises(dspex.InvalidInput, match="history"):
        runtime.adapter().generate([{"role": "user", "content": "x"}], module="tests.programs:Router")
    assert provider.requests == []
    assert ask(runtime, "Typed", inputs={"number": 1, "tags": [], "other": 5, "free": {}}).other == "5"
    assert ask(runtime, "Anywhere", inputs={"whatever": [1]}).given == {"whatever": [1]}
    assert ask(runtime, "Router", "short", inputs={"message": "m"}).tone == "short"


def test_options_are_those_that_there_are(runtime: dspex.Runtime) -> None:
    """If this failed, an option without effect would be taken without a word."""
    with pytest.raises(
        dspex.InvalidOption, match="no option 'temperature'; it has arguments, idempotent, shared, state"
    ):
        ask(runtime, "Router", "x", temperature=0.5)
    with pytest.raises(dspex.InvalidOption, match="takes True or False"):
        ask(runtime, "Router", "x", options={"shared": 1})
    with pytest.raises(dspex.InvalidOption, match="takes no signature"):
        ask(runtime, "Router", "x", signature="message -> team")
    with pytest.raises(dspex.InvalidOption, match="takes no signature"):
        runtime.pool().execute("describe", {"module": "tests.programs:Router", "signature": "a -> b"})
    adapter = runtime.adapter(module_config={"tests.programs:SubOfShared": {"shared": True}})
    pid = runtime.pool().execute("get_stats")["pid"]
    assert adapter.generate("x", module="tests.programs:SubOfShared").pid == pid


# Description


def test_a_program_is_described(runtime: dspex.Runtime) -> None:
    """If this failed, nobody could tell from outside what a program takes."""
    said = runtime.pool().execute("describe", {"module": "tests.programs:Router"})
    assert said["summary"] == "Sends a message where it belongs."
    assert said["instructions"].endswith("More of it.")
    assert said["inputs"]["message"] == {"type": "str", "schema": {"type": "string"}, "required": True}
    assert said["inputs"]["tone"]["default"] == "kind"
    assert said["inputs"]["tone"]["schema"]["enum"] == ["kind", "short"]
    assert {said["shared"], said["idempotent"], said["takes_any"]} == {False}
    said.clear()  # the caller's own copy
    again = runtime.pool().execute("describe", {"module": "tests.programs:SharedAsync"})
    assert (again["shared"], again["idempotent"]) == (True, True)
    typed = runtime.pool().execute("describe", {"module": "tests.programs:Typed"})["inputs"]
    assert [typed[name]["type"] for name in typed] == ["int", "list[str]", None, None]
    assert runtime.pool().execute("describe", {"module": "tests.programs:Router"})["summary"]


def test_a_program_is_described_once(provider: Provider) -> None:
    """If this failed, each call would pay for a second worker and a second import."""
    with dspex.Runtime(
        pools={"general": dspex.PoolOptions(workers=1)}, settings=dspex.Settings(allow_modules=ALLOWED)
    ) as fresh:
        inputs = {"number": 1, "tags": []}

        def ask_one() -> None:
            ask(fresh, "Typed", inputs=inputs)

        threads = [threading.Thread(target=ask_one) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ask(fresh, "Typed", inputs=inputs)
        pool = fresh.stats().pools["isolated"]
        assert (pool.calls, pool.counters) == (7, {"ok": 7})


def test_a_description_that_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a module that was mended would stay broken until the service is started again."""
    folder = tmp_path / "mended"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    file = folder / "program.py"
    file.write_text("import dspy\nthis is no Python\n")
    with dspex.Runtime(
        pools={"general": dspex.PoolOptions(workers=1)}, settings=dspex.Settings(allow_modules=["mended"])
    ) as fresh:
        adapter = fresh.adapter()
        with pytest.raises(dspex.PythonError, match="failed: SyntaxError") as caught:
            adapter.generate("x", module="mended.program:Late")
        assert caught.value.details["frames"] == [
            {"file": str(file), "line": 2, "function": "<module>", "source": "this is no Python"}
        ]
        file.write_text(
            "import dspy\nclass Late(dspy.Module):\n"
            "    def forward(self, q):\n        return dspy.Prediction(a=q)\n"
        )
        assert adapter.generate("x", module="mended.program:Late").a == "x"


def test_without_processes() -> None:
    """If this failed, users could not test their own programs in milliseconds."""
    from dspex.testing import InProcessRuntime, ScriptedLM

    team: dict[str, Any] = {"team": "a"}
    script = [team, {"reasoning": "so", "reply": "b"}, team, team, {"answer": "c"}]
    with (
        ScriptedLM(script) as model,
        InProcessRuntime(
            lm=model, settings=dspex.Settings(file=False, default_lm=None, allow_modules=ALLOWED)
        ) as here,
    ):
        assert ask(here, "Router", "hello").outputs == {"team": "a", "reply": "b", "tone": "kind"}
        assert ask(here, "AsyncRouter", "hello", inputs={"count": 2}).teams == ["a", "a"]
        assert ask(here, "SharedSync", "hello").answer == "c"


def test_a_description_outlives_the_call_that_asked_first(runtime: dspex.Runtime) -> None:
    """If this failed, a call with a short deadline would fail others that wait for the same program."""
    path = "tests.bad_programs.slow:Slow"
    first = threading.Event()

    def ask_first() -> None:
        with pytest.raises(dspex.PythonTimeout):
            runtime.adapter(timeout=0.4).generate("x", module=path)
        first.set()

    thread = threading.Thread(target=ask_first)
    thread.start()
    assert runtime.adapter(timeout=60).generate("x", module=path).answer == "x"
    thread.join(60)
    assert first.is_set()
