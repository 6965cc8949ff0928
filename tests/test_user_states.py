"""Saved states: read here, checked in a worker, loaded into the program that they are of or not at all."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import dspy
import pytest

import dspex
from dspex.program.saved import LONGEST, read
from tests import learners
from tests.provider import Provider
from tests.user_runtime import provider, runtime, serving

__all__ = ["provider", "runtime", "serving"]  # fixtures

KEY = "sk-canary-0123456789"
LEARNED = "Be brief."
EMPTY: dict[str, Any] = {"instructions": "", "fields": []}


def learned(module: dspy.Module, text: str = LEARNED) -> dict[str, Any]:
    """What a module would save after an optimizer has written its instructions and demos."""
    module = copy.deepcopy(module)
    for _, predictor in module.named_parameters():
        predictor.signature = predictor.signature.with_instructions(text)
        names = predictor.signature.fields
        predictor.demos = [dspy.Example(augmented=True, **dict.fromkeys(names, "x"))]
    state: dict[str, Any] = module.dump_state()
    return state


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    file = tmp_path / "class.json"
    module = learners.Class()
    module.load_state(learned(module))
    module.save(str(file))
    return file


def ask(runtime: dspex.Runtime, **options: Any) -> dspex.Response:
    return runtime.adapter().generate("x", module=learners.Class, **options)


# Loading


def test_a_saved_state_is_loaded(
    runtime: dspex.Runtime, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, an optimized program would run as if nothing had been learned."""
    assert ask(runtime).demos == [0, 0]
    for given in (saved, str(saved), json.loads(saved.read_text()), learned(learners.Class())):
        got = ask(runtime, state=given)
        assert (got.told, got.demos) == ([LEARNED, LEARNED], [1, 1])
    monkeypatch.chdir(saved.parent)
    args = {"module": "tests.learners:Class", "prompt": "x", "options": {"state": saved.name}}
    assert runtime.pool().execute("execute_module", args)["told"] == [LEARNED, LEARNED]
    assert ask(runtime, state=None).demos == [0, 0]


def test_a_file_that_changes_is_read_again(runtime: dspex.Runtime, saved: Path) -> None:
    """If this failed, a state that was saved anew would have no effect until the service is started again."""
    assert ask(runtime, state=saved).told[0] == LEARNED
    new = saved.with_name("new.json")
    new.write_text(json.dumps(learned(learners.Class(), "Be long.")))
    new.replace(saved)
    assert ask(runtime, state=saved).told[0] == "Be long."


def test_a_module_of_the_catalogue_takes_a_state(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, an optimized ChainOfThought would have to be written as a module of one's own."""
    signature = "question -> answer"
    adapter = runtime.adapter()
    for module in (dspy.Predict(signature), dspy.ChainOfThought(signature)):
        name = type(module).__name__
        got = adapter.generate("x", module=name, signature=signature, state=learned(module))
        assert got.answer == "x"
        messages = provider.requests[-1].body["messages"]
        assert LEARNED in messages[0]["content"]
        assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
        with pytest.raises(dspex.InvalidOption, match="predictor"):
            adapter.generate("x", module=name, signature="question, more -> answer", state=learned(module),
                             inputs={"more": "y"})  # fmt: skip
    with pytest.raises(dspex.InvalidOption, match="it lacks predict"):
        adapter.generate(
            "x", module="ChainOfThought", signature=signature, state=learned(dspy.Predict(signature))
        )


def test_modules_around_others_take_what_dspy_saved_of_them(
    runtime: dspex.Runtime, provider: Provider
) -> None:
    """If this failed, an optimized BestOfN or MultiChainComparison could not be run."""
    best = dspy.BestOfN(dspy.ChainOfThought("question -> answer"), N=1, reward_fn=len, threshold=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # DSPy's own code calls what it will drop
        comparison = dspy.MultiChainComparison("question -> answer", M=2)
    reward = dspex.Reward.contains("x")
    for name, module, options in (
        ("BestOfN", best, {"of": "ChainOfThought", "N": 1, "reward": reward}),
        ("Refine", best, {"of": "ChainOfThought", "N": 1, "reward": reward}),
        ("MultiChainComparison", comparison, {"M": 2}),
    ):
        provider.requests.clear()
        state = learned(module)
        got = runtime.adapter().generate(
            "x", module=name, signature="question -> answer", state=state, options=options
        )
        assert got.answer
        last = provider.requests[-1].body["messages"]
        assert LEARNED in last[0]["content"]
        assert [message["role"] for message in last] == ["system", "user", "assistant", "user"]
        # Of the attempts of MultiChainComparison DSPy has saved nothing.
        assert all(LEARNED not in str(one.body["messages"]) for one in provider.requests[:-1])
    with pytest.raises(dspex.InvalidOption, match=r"predictors are module$"):
        runtime.adapter().generate(
            "x", module="BestOfN", signature="question -> answer", state=learned(best), reward=reward
        )


def test_it_is_what_dspy_itself_would_load(runtime: dspex.Runtime) -> None:
    """If this failed, a program would behave differently here than where it was optimized."""
    stock = learners.Class()
    state = learned(stock)
    last = state["answer.predict"]["signature"]["fields"][-1]
    last["prefix"] = "Therefore:"  # as COPRO does
    stock.load_state(copy.deepcopy(state))
    got = ask(runtime, state=state)
    want = stock.forward("x")
    assert (got.told, got.prefixes, got.demos) == (want.told, want.prefixes, want.demos)
    assert got.prefixes[-1] == "Therefore:"


def test_a_large_state_goes_with_the_call(runtime: dspex.Runtime) -> None:
    """If this failed, a program with long demos would break the channel to its worker."""
    state = learned(learners.Pupil())
    state["predict"]["demos"] = [{"augmented": True, "question": "x" * 100_000, "answer": "y"}] * 30
    for _ in range(2):
        got = runtime.adapter().generate("x", module=learners.Pupil, state=state)
        assert got.demos == 30


def test_a_program_may_load_its_state_in_its_own_way(runtime: dspex.Runtime) -> None:
    """If this failed, a program that saves more than predictors could not be loaded, or be loaded halfway."""
    adapter = runtime.adapter()
    assert adapter.generate(module=learners.Stubborn, state={"number": 4}).number == 5
    with pytest.raises(dspex.PythonError, match=r"loading its state into .* failed: KeyError"):
        adapter.generate(module=learners.Stubborn, state={"letter": 4})


def test_a_saved_model_is_left_out_with_a_warning(
    runtime: dspex.Runtime, saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If this failed, a file could send prompts, with somebody's key in clear, to an address of its own."""
    state = json.loads(saved.read_text())
    state["plan"]["lm"] = {"model": "openai/x", "api_base": "http://evil", "extra_headers": {"k": KEY}}
    with caplog.at_level(logging.WARNING, "dspex"):
        got = ask(runtime, state=state)
    assert got.lms == [None, None]
    assert "language models, which are not taken over (plan)" in caplog.text
    assert KEY not in caplog.text
    assert KEY.encode() not in read(state).encoded


# Mismatch


def changed(change: Any) -> dict[str, Any]:
    state = learned(learners.Class())
    change(state)
    return state


def _rename(state: dict[str, Any], place: int, name: str) -> None:
    state["answer.predict"]["signature"]["fields"][place] = {
        "prefix": f"{name.title()}:", "description": f"${{{name}}}"
    }  # fmt: skip


def _swap(state: dict[str, Any]) -> dict[str, Any]:
    fields = state["answer.predict"]["signature"]["fields"]
    fields[0], fields[1] = fields[1], fields[0]
    return state


def _describe(state: dict[str, Any], *texts: str) -> None:
    fields = state["answer.predict"]["signature"]["fields"]
    for field, text in zip(fields, texts, strict=False):
        field["description"] = text


MISMATCHES: dict[str, tuple[Any, str]] = {
    "a predictor less": (
        lambda s: s.pop("plan"),
        "it lacks plan. The program's predictors are plan, answer.predict",
    ),
    "a predictor more": (lambda s: s.update(other=s["plan"]), "it has other, which the program has not"),
    "another name": (lambda s: s.update(old=s.pop("plan")), "it lacks plan; it has old"),
    "nothing of one": (lambda s: s.update(plan=None), "predictor 'plan': nothing of a predictor"),
    "a field less": (
        lambda s: s["plan"]["signature"]["fields"].pop(),
        "predictor 'plan': 1 fields were saved, and it has 2 (question, steps)",
    ),
    "a field more": (
        lambda s: s["plan"]["signature"]["fields"].append({"prefix": "More:", "description": "${more}"}),
        "predictor 'plan': 3 fields were saved",
    ),
    "renamed": (
        lambda s: _rename(s, 0, "query"),
        "predictor 'answer.predict': in the place of its field 'question' was saved one that was 'query'",
    ),
    "in another order": (_swap, "in the place of its field 'question' was saved one that was 'steps'"),
    "described, in another order": (
        lambda s: _describe(_swap(s), "some text", "some text"),
        "in the place of its field 'question' was saved one that was 'steps'",
    ),
    "instructions of other fields": (
        lambda s: s["plan"]["signature"].update(
            instructions="Given the fields `question`, produce the fields `plan`."
        ),
        "its instructions were saved with an output 'plan', and it has none",
    ),
    "an input that is an output now": (
        lambda s: s["plan"]["signature"].update(
            instructions="Given the fields `question`, `steps`, produce the fields `steps`."
        ),
        "its instructions were saved with an input 'steps', and it has none",
    ),
    "demos of other fields": (
        lambda s: s["plan"].update(demos=[{"augmented": True, "query": "x", "steps": "y"}]),
        "demo 0 was made by a predictor with other fields (query, steps)",
    ),
}


@pytest.mark.parametrize("what", MISMATCHES)
def test_a_state_of_another_program_is_refused(runtime: dspex.Runtime, what: str) -> None:
    """If this failed, DSPy would put each field's words into the field that is now in its place."""
    change, said = MISMATCHES[what]
    state = changed(change)
    with pytest.raises(dspex.InvalidOption) as caught:
        ask(runtime, state=state)
    assert said in caught.value.message
    assert caught.value.details["option"] == "state"
    assert caught.value.details["module"] == "tests.learners:Class"
    assert caught.value.request_id


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s["plan"]["signature"].update(
            instructions="Given the fields `question`, produce the fields `steps`."
        ),
        lambda s: s["plan"].update(demos=[{"question": "x", "unrelated": "y"}]),
        lambda s: s["plan"].update(demos=[{"other": "of the trainset"}]),
        lambda s: _describe(s, "the question, in words"),
        lambda s: s.update(metadata={"dependency_versions": {}}),
        lambda s: s["plan"].update(traces=[1], train=[{"a": 1}]),
    ],
)  # fmt: skip
def test_what_optimizers_and_people_change_is_no_mismatch(runtime: dspex.Runtime, change: Any) -> None:
    """If this failed, a state that DSPy has saved of this very program could not be loaded."""
    assert ask(runtime, state=changed(change)).told[1] == LEARNED


# What is no state


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ("absent.json", dspex.InvalidOption, "cannot be read: No such file"),
        ("a.pkl", dspex.InvalidOption, "is a pickle, and to load one runs"),
        ("folder", dspex.InvalidOption, "module.save('program.json')"),
        ("pipe", dspex.InvalidOption, "is no file"),
        ("a\0b", dspex.InvalidOption, "cannot be read"),
        ("text.json", dspex.InvalidOption, "is no JSON"),
        ("deep.json", dspex.InvalidOption, "is no JSON"),
        ("huge.json", dspex.InvalidOption, "cannot be sent"),
        ("list.json", dspex.InvalidOption, "which is a JSON object"),
        ("empty.json", dspex.InvalidOption, "has no predictor"),
        ("large.json", dspex.PayloadTooLarge, f"at most {LONGEST:,} go with a call"),
        ({"a": print}, dspex.InvalidOption, "give what module.dump_state() gives"),
        ({"a": "x" * (LONGEST + 1)}, dspex.PayloadTooLarge, "save fewer"),
        (b"bytes", dspex.InvalidOption, "or a dict, not bytes"),
        (3, dspex.InvalidOption, "state is a path or a dict, not int"),
        ({"plan": {"signature": {}, "demos": []}}, dspex.InvalidOption, "that DSPy did not save"),
        ({"plan": {"signature": EMPTY, "demos": [1]}}, dspex.InvalidOption, "demos of 'plan'"),
        ({"plan": {"signature": EMPTY, "config": {"api_base": "x"}}}, dspex.InvalidOption, "has config of"),
    ],
    ids=lambda value: ascii(value)[:30],
)  # fmt: skip
def test_what_is_no_state_is_refused_before_anything_runs(
    runtime: dspex.Runtime, provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    given: Any, error: type[dspex.DspexError], said: str,
) -> None:  # fmt: skip
    """If this failed, a file could run code, set attributes of a program, or fail far from its cause."""
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({}))
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text.json").write_text("{")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "huge.json").write_text('{"a": {"number": 1' + "0" * 40 + "}}")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "empty.json").write_text('{"metadata": {}}')
    (tmp_path / "large.json").write_text('"' + "x" * LONGEST + '"')
    monkeypatch.chdir(tmp_path)
    for ask_it in (ask, lambda _, **options: runtime.adapter().generate("x", **options)):
        with pytest.raises(error) as caught:
            ask_it(runtime, state=given)
        assert said in caught.value.message
        assert caught.value.request_id
    assert provider.requests == []


def test_images_of_saved_demos_are_images(runtime: dspex.Runtime, provider: Provider, tmp_path: Path) -> None:
    """If this failed, a program that learned from pictures would show the model their addresses as text."""
    predict = dspy.Predict("i: dspy.Image, q -> response")
    predict.demos = [dspy.Example(i=dspy.Image("https://example.org/a.png"), q="a", response="b")]
    predict.save(str(tmp_path / "seen.json"))
    runtime.adapter().generate(
        "x",
        signature="i: Image, q -> response",
        inputs={"i": dspex.Image("https://example.org/b.png")},
        state=str(tmp_path / "seen.json"),
    )
    asked = [m["content"] for m in provider.requests[-1].body["messages"] if m["role"] == "user"]
    images = [block["image_url"]["url"] for blocks in asked for block in blocks if "image_url" in block]
    assert images == ["https://example.org/a.png", "https://example.org/b.png"]
