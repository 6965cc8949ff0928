"""Programs of a user's own, made with arguments, and named by their class."""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
from typing import Any

import dspy
import pytest

import dspex
from dspex.program.classes import named
from tests import learners
from tests import signature_types as types
from tests.provider import Provider, Reply, echo, fault, text
from tests.user_runtime import provider, runtime, serving

__all__ = ["provider", "runtime", "serving"]  # fixtures


def ask(runtime: dspex.Runtime, name: str, prompt: str | None = None, **options: Any) -> dspex.Response:
    return runtime.adapter().generate(prompt, module=f"tests.learners:{name}", **options)


MARK = "<<CUSTOM-TYPE-START-IDENTIFIER>>"

# Arguments


def test_a_constructor_gets_its_arguments(runtime: dspex.Runtime) -> None:
    """If this failed, a program with a constructor could not be run, or run with other values."""
    given = {"size": 3, "since": "2024-05-01", "tags": ["a"], "free": {1, 2}}
    got = ask(runtime, "Sized", "x", arguments=given)
    assert got.outputs == {
        "question": "x", "kinds": "set", "size": 3, "since": dt.date(2024, 5, 1), "tags": ["a"],
        "free": {1, 2},
    }  # fmt: skip
    assert ask(runtime, "Sized", "x", options={"arguments": {"size": 4}}).size == 4
    assert ask(runtime, "Open", arguments={"anything": [1]}).given == {"anything": [1]}
    assert ask(runtime, "Open").given == {}
    args = {"module": "tests.learners:Sized", "prompt": "x", "options": {"arguments": {"size": 5}}}
    assert runtime.pool().execute("execute_module", args)["size"] == 5
    adapter = runtime.adapter(module_config={"tests.learners:Sized": {"arguments": {"size": 6}}})
    assert adapter.generate("x", module=learners.Sized).size == 6


@pytest.mark.parametrize(
    ("arguments", "said", "details"),
    [
        ({}, "needs 'size'; give it in arguments={'size': ...}", {"missing": ["size"]}),
        ({"size": 1, "tag": 2}, "no argument 'tag' (did you mean 'tags'?)", {"unknown": ["tag"]}),
        ({"size": "1"}, "the argument 'size' has to be int", {"field": "size", "expected": "int"}),
        ({"size": True}, "the argument 'size' has to be int", {"got": "bool"}),
        ({"size": 1, "since": "soon"}, "the argument 'since' has to be", {"field": "since"}),
        ({"size": 1, "free": MARK}, "the argument 'free' holds", {"field": "free"}),
        ({3: 1}, "takes a dict by parameter name", {"option": "arguments"}),
        ([1], "takes a dict by parameter name", {"option": "arguments"}),
    ],
)  # fmt: skip
def test_arguments_are_checked_before_anything_is_made(
    runtime: dspex.Runtime, arguments: Any, said: str, details: dict[str, Any]
) -> None:
    """If this failed, a mistyped argument would be a TypeError in a worker, or be taken without a word."""
    with pytest.raises(dspex.InvalidOption) as caught:
        ask(runtime, "Sized", "x", arguments=arguments)
    assert said in caught.value.message
    assert caught.value.details.items() >= details.items()
    assert caught.value.request_id


def test_models_dataclasses_and_enums_arrive_as_what_they_are(runtime: dspex.Runtime) -> None:
    """If this failed, a forward with ``order: Order`` would get a dict, and fail where it works in DSPy."""
    line = {"itemNumber": "k1", "price": "1.50", "day": "2024-01-02", "tags": ["a"]}
    order = types.Order(lines=[types.Line.model_validate(line)], notes={"n": types.Line.model_validate(line)})
    given = {"order": order, "points": [types.Point(1), types.Point(2)], "level": types.Level.HIGH}
    got = ask(runtime, "Ordering", inputs=given, arguments={"color": types.Color.BLUE})
    assert got.outputs == {
        "color": "BLUE", "total": decimal.Decimal("1.50"), "xs": [1, 2], "level": "HIGH", "order": order,
    }  # fmt: skip
    got = ask(
        runtime, "Ordering", inputs={"order": {"lines": [line]}, "level": 1}, arguments={"color": "red"}
    )
    assert (got.color, got.level, got.order["lines"][0]["sku"]) == ("RED", "LOW", "k1")
    with pytest.raises(dspex.InvalidInput, match="has to be Order") as caught:
        ask(runtime, "Ordering", inputs={"order": {"lines": [{}]}})
    assert caught.value.details["field"] == "order"
    with pytest.raises(dspex.InvalidOption, match="the argument 'color' has to be Color"):
        ask(runtime, "Ordering", inputs={"order": {"lines": []}}, arguments={"color": "green"})


def test_arguments_that_cannot_be_sent_are_refused_here(runtime: dspex.Runtime) -> None:
    """If this failed, a call would fail in a worker, or a megabyte go with each."""
    with pytest.raises(dspex.InvalidInput, match=r"arguments.size: cannot be sent"):
        ask(runtime, "Sized", "x", arguments={"size": object()})
    with pytest.raises(dspex.PayloadTooLarge, match="4,194,304"):
        ask(runtime, "Sized", "x", arguments={"size": 1, "free": "x" * 5_000_000})


def test_a_description_has_the_arguments(runtime: dspex.Runtime) -> None:
    """If this failed, nobody could tell from outside what a program is made with."""
    said = runtime.pool().execute("describe", {"module": "tests.learners:Sized"})
    assert [(name, one["type"], one["required"]) for name, one in said["arguments"].items()] == [
        ("size", "int", True),
        ("since", "datetime.date | None", False),
        ("tags", "list[str] | None", False),
        ("free", None, False),
    ]
    assert not said["takes_any_argument"]
    assert runtime.pool().execute("describe", {"module": learners.Open})["takes_any_argument"]
    assert runtime.pool().execute("describe", {"module": "tests.programs:Typed"})["arguments"] == {}


def test_programs_with_other_arguments_are_others(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a worker would answer with a program that was made for another caller."""
    provider.reply = lambda _: echo()
    for signature in ("question -> answer", "question -> answer: str, more", "question -> answer"):
        ask(runtime, "Pupil", "hi", arguments={"signature": signature})
    contents = [request.body["messages"][0]["content"] for request in provider.requests]
    assert ["`more`" in content for content in contents] == [False, True, False]


# Classes


def test_a_class_stands_for_its_path(runtime: dspex.Runtime) -> None:
    """If this failed, a user would have to write by hand where a class of his is."""
    adapter = runtime.adapter()
    assert adapter.generate("x", module=learners.Sized, arguments={"size": 1}).size == 1
    assert asyncio.run(adapter.agenerate("x", module=learners.Pupil)).answer == "x"
    assert adapter.generate("x", module=dspy.ChainOfThought, signature="q -> a").a == "x"
    assert runtime.pool().execute("run", {"module": learners.Pupil, "prompt": "y"})["answer"] == "y"
    assert named(learners.Renamed) == "tests.learners:Renamed"
    assert adapter.generate("x", module=learners.Renamed, arguments={"size": 2}).size == 2


def test_a_class_from_elsewhere_is_not_allowed(runtime: dspex.Runtime) -> None:
    """If this failed, a class object would go round what the operator allows."""
    here = type("Here", (dspy.Module,), {"__module__": __name__})
    globals()["Here"] = here
    with pytest.raises(dspex.NotAllowed, match="test_user_arguments"):
        runtime.adapter().generate("x", module=here)
    with pytest.raises(dspex.NotAllowed, match="builtins:dict"):
        runtime.adapter().generate("x", module=dict)
    with pytest.raises(dspex.ModuleNotFound, match=r"unknown module 'dspy.Example'"):
        runtime.adapter().generate("x", module=dspy.Example)


class InMain(dspy.Module):  # type: ignore[misc]
    """As if a notebook had defined it."""


InMain.__module__ = "__main__"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (InMain, "InMain is defined in the script or notebook that runs.*move it into a module, and allow"),
        (learners.made_here(), "Inner is defined inside a function.*move it to the top of its module"),
        (learners.Sized(1), r"an instance of Sized.*give the class, module=Sized"),
        (lambda: None, "not function"),
        (None, "not NoneType"),
        (3, "not int"),
    ],
)
def test_a_class_that_a_worker_cannot_import_says_what_to_do(
    runtime: dspex.Runtime, given: Any, said: str
) -> None:
    """If this failed, a user of a notebook would be told of an AttributeError in another process."""
    with pytest.raises(dspex.ModuleNotFound, match=said):
        runtime.adapter().generate("x", module=given)


def test_a_class_that_was_loaded_anew_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a worker would run another class than the one that was given."""
    old = learners.Class
    monkeypatch.setattr(learners, "Class", type("Class", (old,), {}))
    with pytest.raises(dspex.ModuleNotFound, match="another class by now"):
        named(old)
    monkeypatch.delattr(learners, "Class")
    with pytest.raises(dspex.ModuleNotFound, match="has no Class at its top"):
        named(old)


# Adapters


def test_an_adapter_of_the_users_own_puts_the_words(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a DSPy adapter of one's own could not be used, or fail in a way that says nothing."""

    def lm(path: str) -> dspex.LM:
        return dspex.LM("openai/x", base_url=provider.base_url, adapter=path)

    adapter = runtime.adapter()
    assert adapter.generate("hi", lm=lm("tests.learners:Loud")).response == "hi"
    assert provider.requests[-1].body["messages"][0]["content"].endswith(" LOUD")
    cases: list[tuple[type[dspex.DspexError], str, str]] = [
        (dspex.NotAllowed, "os:system", "may not be imported"),
        (dspex.ModuleNotFound, "tests.learners:Lout", "has no 'Lout'"),
        (dspex.InvalidOption, "tests.learners:Sized", "name a subclass of dspy.Adapter"),
        (dspex.PythonError, "tests.learners:Needy", "called without arguments, failed: TypeError"),
        (dspex.PythonError, "tests.bad_programs.raising:Any", "importing .* failed: ZeroDivisionError"),
    ]
    for kind, path, said in cases:
        with pytest.raises(kind, match=said):
            adapter.generate("hi", lm=lm(path))


# What fails inside


@pytest.mark.parametrize("how", ["again", "from", "group", "other", "wrapped"])
def test_an_lm_error_keeps_its_code_on_its_way_out(
    runtime: dspex.Runtime, provider: Provider, how: str
) -> None:
    """If this failed, a caller could not tell a busy provider from a fault in the program."""

    def busy(_: object) -> Reply:
        return fault(429, retry_after=0.3)

    provider.reply = busy
    with pytest.raises(dspex.DspexError) as caught:
        ask(runtime, "Hiding", how)
    error = caught.value
    if how == "wrapped":
        assert (error.code, error.message) == ("python_error", "RuntimeError: could not route")
        assert error.details["cause"]["code"] == "lm_rate_limited"
        assert error.details["cause"]["retry_after"] == 0.3
        assert error.details["frames"][-1]["function"] == "aforward"
    else:
        assert error.code == ("lm_unavailable" if how == "other" else "lm_rate_limited")
        assert error.retryable
    assert error.details["requests"][0]["status"] == "lm_rate_limited"


def test_a_parse_error_keeps_its_code(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a weak model would look like a fault in the program."""
    provider.reply = lambda _: text("no fields at all")
    with pytest.raises(dspex.ParseError):
        ask(runtime, "Hiding", "again")
