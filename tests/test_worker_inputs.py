"""What a worker refuses before a language model is asked, and what it takes, through a real runtime."""

from __future__ import annotations

import datetime as dt
import math
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import dspex
from dspex.program.signature import Field, Signature
from dspex.program.spec import ProgramSpec
from dspex.worker.build import build
from tests.provider import Provider, echo


@pytest.fixture(scope="module")
def serving() -> Iterator[tuple[Provider, dspex.Runtime]]:
    with (
        Provider() as provider,
        dspex.Runtime(
            lm=dspex.LM("openai/x", base_url=provider.base_url),
            pools={"general": dspex.PoolOptions(workers=1)},
            settings=dspex.Settings(allow_modules=("tests.commands",)),
        ) as runtime,
    ):
        yield provider, runtime


@pytest.fixture
def provider(serving: tuple[Provider, dspex.Runtime]) -> Provider:
    serving[0].reply = lambda _: echo()
    serving[0].requests.clear()
    return serving[0]


@pytest.fixture
def runtime(serving: tuple[Provider, dspex.Runtime]) -> dspex.Runtime:
    return serving[1]


def asked(runtime: dspex.Runtime, type_: str, value: Any) -> dspex.Response:
    signature = f"given: {type_}, question -> answer" if type_ else "given, question -> answer"
    return runtime.adapter().generate("Where?", signature=signature, inputs={"given": value})


def shown(provider: Provider, field: str = "given") -> str:
    """What the model was shown of an input."""
    text = provider.requests[-1].prompt.user.partition(f"[[ ## {field} ## ]]\n")[2]
    return text.partition("\n\n[[ ## ")[0]


REFUSED: list[tuple[str, Any, str]] = [
    ("int", True, "bool"),
    ("int", 1.0, "float"),
    ("int", "1", "str"),
    ("int", None, "NoneType"),
    ("float", True, "bool"),
    ("float", "1.5", "str"),
    ("bool", 1, "int"),
    ("bool", "true", "str"),
    ("str", 5, "int"),
    ("str", None, "NoneType"),
    ("str", ["a"], "list"),
    ("str", b"abc", "bytes"),
    ("str", bytearray(b"abc"), "bytes"),
    ("list[str]", "abc", "str"),
    ("list[str]", ["a", 1], "list"),
    ("list[str]", [b"a"], "list"),
    ("list[str]", {"a": 1}, "dict"),
    ("list[int]", [True], "list"),
    ("Literal['a', 'b']", "c", "str"),
    ("Literal['a', 'b']", 1, "int"),
    ("Literal[1, 2]", "1", "str"),
    ("date", "tomorrow", "str"),
    ("date", 20240101, "int"),
    ("date", dt.datetime(2024, 1, 2, tzinfo=dt.UTC), "datetime"),
    ("Optional[int]", "1", "str"),
    ("Optional[int]", math.nan, "float"),
    ("dict", [], "list"),
    ("dict", "{}", "str"),
    ("dict[str, int]", {"a": "1"}, "dict"),
    ("tuple[int, str]", [1], "list"),
    ("tuple[int, str]", ["a", 1], "list"),
    ("uuid.UUID", "x", "str"),
]


@pytest.mark.parametrize(("type_", "value", "got"), REFUSED, ids=lambda part: repr(part)[:30])
def test_an_ill_typed_input_is_refused(
    runtime: dspex.Runtime, provider: Provider, type_: str, value: Any, got: str
) -> None:
    """DSPy would only warn, and a model be asked, and paid, about something else than was meant."""
    with pytest.raises(dspex.InvalidInput, match=r"input .given") as caught:
        asked(runtime, type_, value)
    assert caught.value.details["field"] == "given"
    assert caught.value.details["got"] == got
    assert caught.value.request_id
    assert provider.requests == []


TAKEN: list[tuple[str, Any, str]] = [
    ("int", 3, "3"),
    ("int", 10**30, str(10**30)),
    ("float", 1, "1.0"),
    ("float", math.inf, "inf"),
    ("bool", False, "False"),
    ("str", "", ""),
    ("str", "Zoë \U0001f600\x00", "Zoë \U0001f600\x00"),
    ("list[str]", [], "[]"),
    ("list[str]", ("a", "b"), '["a", "b"]'),
    ("Literal['a', 'b']", "b", "b"),
    ("date", "2024-01-02", "2024-01-02"),
    ("date", dt.date(2024, 1, 2), "2024-01-02"),
    ("datetime", "2024-01-02T03:04:05", "2024-01-02T03:04:05"),
    ("timedelta", "P1D", "P1D"),
    ("Decimal", "1.50", "1.50"),
    ("Optional[int]", None, "None"),
    ("Optional[int]", 4, "4"),
    ("dict", {"a": [1, None]}, '{"a": [1, null]}'),
    ("dict[str, date]", {"a": "2024-01-02"}, '{"a": "2024-01-02"}'),
    ("tuple[int, str]", [1, "a"], '[1, "a"]'),
    ("set[int]", [1, 1], "[1]"),
    ("int | list[str]", ["a"], '["a"]'),
    ("Any", {"x": 1}, '{"x": 1}'),
    ("", ["a", "b"], "[1] «a»\n[2] «b»"),
    ("", {"a": 1}, '{"a": 1}'),
    ("", 5, "5"),
]


@pytest.mark.parametrize(("type_", "value", "text"), TAKEN, ids=lambda part: repr(part)[:30])
def test_a_value_or_its_json_form_is_taken(
    runtime: dspex.Runtime, provider: Provider, type_: str, value: Any, text: str
) -> None:
    """A caller over HTTP could not send dates and tuples, or a model be shown them in a strange form."""
    assert asked(runtime, type_, value).answer == "Where?"
    assert shown(provider) == text


@pytest.mark.parametrize(
    ("inputs", "details"),
    [
        ({}, {"missing": ["given", "question"]}),
        ({"question": "a"}, {"missing": ["given"]}),
        ({"question": "a", "given": 1, "quetsion": "b"}, {"unknown": ["quetsion"]}),
    ],
)
def test_missing_and_unknown_inputs_are_named(
    runtime: dspex.Runtime, provider: Provider, inputs: dict[str, Any], details: dict[str, Any]
) -> None:
    """A misspelled input would be left out, and the model answer without it."""
    with pytest.raises(dspex.InvalidInput) as caught:
        runtime.adapter().generate(signature="given: int, question -> answer", inputs=inputs)
    assert caught.value.details.items() >= details.items()
    assert provider.requests == []


def test_an_input_that_may_be_none_may_be_missing(runtime: dspex.Runtime, provider: Provider) -> None:
    """Callers would have to send None for everything that they do not have."""
    signature = "question, hint: Optional[str] -> answer"
    assert runtime.adapter().generate("Where?", signature=signature).answer == "Where?"
    assert "[[ ## hint ## ]]" not in provider.requests[0].prompt.user


@pytest.mark.parametrize("given", [{"question": "half \ud800"}, {"question": ["\udc00"]}])
def test_half_a_surrogate_pair_is_refused(
    runtime: dspex.Runtime, provider: Provider, given: dict[str, Any]
) -> None:
    """No provider can be sent it: the call would fail somewhere deep, as an error of the user's code."""
    with pytest.raises(dspex.InvalidInput, match="question"):
        runtime.adapter().generate(signature="question -> answer", inputs=given)
    assert provider.requests == []


# Histories


@pytest.mark.parametrize("history", ["text", [1], {"turns": []}, [["question", "a"]]])
def test_what_is_no_history_is_refused(runtime: dspex.Runtime, provider: Provider, history: Any) -> None:
    """A conversation so far would be lost, or fail inside DSPy."""
    with pytest.raises(dspex.InvalidInput, match="turns"):
        asked(runtime, "History", history)
    assert provider.requests == []


def test_a_history_that_names_none_of_the_fields_is_refused(
    runtime: dspex.Runtime, provider: Provider
) -> None:
    """Turns by role and content, the usual mistake, are dropped by DSPy: the model would see empty turns."""
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    with pytest.raises(dspex.InvalidInput, match="field"):
        asked(runtime, "History", turns)
    assert provider.requests == []


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_history_comes_before_the_question(
    runtime: dspex.Runtime, provider: Provider, wrapped: bool
) -> None:
    """A model would answer without what was said before."""
    turns = [{"question": "Who?", "answer": "Bo."}]
    asked(runtime, "History", {"messages": turns} if wrapped else turns)
    messages = provider.requests[0].body["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert "Who?" in messages[1]["content"]
    assert "Bo." in messages[2]["content"]


# Programs


def test_an_unknown_module_is_refused_with_the_nearest(runtime: dspex.Runtime, provider: Provider) -> None:
    """A misspelled module would silently be another one."""
    with pytest.raises(dspex.ModuleNotFound, match=r"did you mean 'dspy\.ChainOfThought'"):
        runtime.adapter().generate("x", module="dspy.ChainOfThougt")
    assert provider.requests == []


@pytest.mark.parametrize(
    ("signature", "position"),
    [("question", 8), ("question ->", 11), ("a -> b -> c", 7), ("a: inttt -> b", 3), ("a, a -> b", 3)],
)
def test_a_bad_signature_is_refused_with_its_place(
    runtime: dspex.Runtime, provider: Provider, signature: str, position: int
) -> None:
    """A caller would be told that something is wrong, and not where."""
    with pytest.raises(dspex.InvalidSignature) as caught:
        runtime.adapter().generate("x", signature=signature)
    assert caught.value.details == {"position": position, "signature": signature}
    assert provider.requests == []


@pytest.mark.parametrize(
    "type_", ["this.s", "antigravity", "this", "list[this.s]", "os.system", "__import__('this')"]
)
def test_a_hostile_type_imports_nothing(runtime: dspex.Runtime, type_: str) -> None:
    """A caller over HTTP could import any module that is installed, here or in a worker."""
    for ask in (
        lambda: runtime.adapter().generate("x", signature=f"q: {type_} -> a"),
        lambda: runtime.pool().execute("describe", {"signature": f"q: {type_} -> a"}),
        lambda: build(ProgramSpec("dspy.Predict", Signature((Field("q", type_),), (Field("a"),)))),
    ):
        with pytest.raises(dspex.InvalidSignature):
            ask()
    hostile = ["this", "antigravity"]
    assert runtime.pool().execute("tests.modules", {"names": [*hostile, "dspy"]}) == ["dspy"]
    assert not set(hostile) & set(sys.modules)


@pytest.mark.parametrize("module", ["dspy.Predict", "dspy.ChainOfThought"])
def test_an_unknown_option_is_refused_with_those_there_are(
    runtime: dspex.Runtime, provider: Provider, module: str
) -> None:
    """An option that does nothing would look as if it did."""
    with pytest.raises(dspex.InvalidOption, match="max_hops") as caught:
        runtime.adapter().generate("x", module=module, max_hops=3)
    assert "temperature" in caught.value.details["known"]
    assert provider.requests == []
