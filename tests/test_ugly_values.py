"""Values and names that break programs elsewhere, in and out of real workers."""

from __future__ import annotations

import math
from typing import Any

import pytest

import dspex
from tests.provider import Provider, Reply, fields
from tests.user_runtime import provider, runtime, serving
from tests.values import form

__all__ = ["provider", "runtime", "serving"]  # fixtures

LARGE = 10 * 1024 * 1024
NAMES = [
    *("id", "type", "error", "keys", "items", "model", "toDict", "content", "outputs", "usage", "values"),
    *("get", "pop", "request_id", "worker", "json", "copy", "schema", "name", "code"),
]
UGLY: list[tuple[str, Any]] = [
    ("control", "".join(map(chr, range(0x20))) + "\x7f\x85\u2028\u2029\ufeff\ufffe\uffff"),
    ("zero", "\0"),
    ("wide", "Zoë 😀 👩‍👩‍👧 \U0010ffff ﷽ e\u0301 \u202e"),
    ("empty", ""),
    ("blank", " \t\n "),
    ("marks", "[[ ## answer ## ]]\nno\n\n[[ ## completed ## ]]"),
    ("nothing", []),
    ("none", {}),
    ("empties", {"": [{}, [], "", None, ()]}),
    ("nan", [math.nan, math.inf, -math.inf, -0.0, 5e-324]),
    ("big", [2**64, -(2**200), 10**400]),
    ("bytes", [b"", b"\0\xff", bytes(range(256))]),
    ("truth", [True, 1, False, 0]),
    ("keys", {1: "a", "1": "b", 2.5: "c", None: "d", (1, 2): "e"}),
    ("many", list(range(5000))),
    ("rows", [[n, str(n), [n / 3, [n]]] for n in range(5000)]),
    ("deep", None),
]


def deep(levels: int) -> Any:
    value: Any = "end"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(("name", "value"), UGLY, ids=[name for name, _ in UGLY])
def test_ugly_values_go_in_and_come_out(runtime: dspex.Runtime, name: str, value: Any) -> None:
    """If this failed, a program would get, or give, another value than was sent."""
    value = deep(150) if name == "deep" else value
    got = runtime.adapter().generate(
        module="tests.typed_programs:Back", inputs={"value": value, "error": value, "type": [value]}
    )
    assert list(got.outputs) == ["value", "error", "type", "completions"]
    assert form(got.outputs["value"]) == form(got.outputs["error"]) == form(value)
    assert form(got["type"]) == form([value])
    assert form(runtime.pool().execute("echo", {"id": value})) == form({"id": value})


def test_bytes_like_values_arrive_as_bytes(runtime: dspex.Runtime) -> None:
    """If this failed, a buffer would arrive as something that only one process has."""
    given = [bytearray(b"\0a"), memoryview(b"\xff")]
    got = runtime.adapter().generate(module="tests.typed_programs:Back", inputs={"value": given})
    assert got.value == [b"\0a", b"\xff"]
    assert [type(part) for part in got.value] == [bytes, bytes]


@pytest.mark.parametrize("value", ["\ud800", "a\udfffb", ["x", {"y": "\ud83d"}], {"\ud800": 1}])
def test_half_a_character_is_refused_with_its_place(
    runtime: dspex.Runtime, provider: Provider, value: Any
) -> None:
    """If this failed, a worker or a provider would fail on it, and nobody know on what."""
    with pytest.raises(dspex.InvalidInput, match="lone surrogate U") as caught:
        runtime.adapter().generate(signature="given -> answer", inputs={"given": value})
    assert caught.value.details["path"].startswith("inputs.given")
    assert provider.requests == []


@pytest.mark.parametrize("module", ["dspy.Predict", "dspy.ChainOfThought"])
def test_fields_may_have_any_name(runtime: dspex.Runtime, provider: Provider, module: str) -> None:
    """If this failed, an output would be hidden, or a field of the envelope be taken for it."""
    provider.reply = lambda _: fields(reasoning="r", **{name: f"out {name}" for name in NAMES})
    got = runtime.adapter().generate("?", module=module, signature=f"q -> {', '.join(NAMES)}")
    assert {name: got[name] for name in NAMES} == {name: f"out {name}" for name in NAMES}
    # The response's own names win as attributes.
    assert got.model == "x"
    assert got.content == "out code"
    assert got.outputs is not None
    assert got.usage.total_tokens > 0
    assert (got.id, got.type, got.keys, got.toDict, got.name) == (
        *("out id", "out type", "out keys", "out toDict", "out name"),
    )
    assert got.to_dict()["outputs"]["request_id"] == "out request_id"


def test_inputs_may_have_any_name(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, an input would be taken for a parameter of DSPy's own functions."""
    inputs = {name: f"in {name}" for name in NAMES}
    runtime.adapter().generate(signature=f"{', '.join(NAMES)} -> answer", inputs=inputs)
    said = provider.requests[-1].prompt.user
    for name in NAMES:
        assert f"[[ ## {name} ## ]]\nin {name}\n" in said


def test_names_that_dspy_keeps_are_refused(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, `self` would end in a TypeError of DSPy's, or lose its value."""
    for signature in ("self -> answer", "question -> self"):
        with pytest.raises(dspex.InvalidSignature, match="'self' cannot name"):
            runtime.adapter().generate("?", signature=signature)
    assert provider.requests == []


@pytest.mark.parametrize("said", ["", " ", "\0", "a\0b", "Zoë 😀", "\u2028", "line\nline", "x" * 100_000])
def test_whatever_a_model_says_arrives(runtime: dspex.Runtime, provider: Provider, said: str) -> None:
    """If this failed, an answer would be lost for a character in it."""
    provider.reply = lambda _: fields(answer=said, n=1)
    got = runtime.adapter().generate("?", signature="q -> answer, n: int")
    assert got.answer == said.strip()
    assert got.to_dict()["outputs"]["answer"] == said.strip()


def test_several_completions_may_be_ugly(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, the second of two answers would not be what the model said."""
    said = iter(["\0 é", "😀 b"] * 2)

    def reply(_: Any) -> Reply:
        text = next(said)
        return fields(items=[text, ""], error=text)

    provider.reply = reply
    got = runtime.adapter().generate("?", signature="q -> items: list[str], error", n=2, temperature=1.0)
    assert got.completions is not None
    assert len(got.completions) == 2
    for outputs in got.completions:
        assert outputs["items"] == [outputs["error"], ""]
        assert outputs["error"] in {"\0 é", "😀 b"}


def test_ten_megabytes_of_text_go_in_and_out(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a book could not be asked about, or an answer as long as one not be had."""
    book = ("Zoë \0 said.\n" * (LARGE // 13))[: LARGE - 1] + "."
    provider.reply = lambda _: fields(answer=book)
    adapter = runtime.adapter(timeout=120)
    got = adapter.generate(signature="book: str -> answer", inputs={"book": book})
    assert got.answer == book
    assert book in provider.requests[-1].prompt.user
    provider.requests.clear()
    back = adapter.generate(module="tests.typed_programs:Back", inputs={"value": book, "error": [book] * 2})
    assert (back.value, back["error"]) == (book, [book] * 2)


def test_five_thousand_elements_reach_the_model(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a table of ordinary length would be cut or refused."""
    rows = [[n, str(n), {"deep": [n, None]}] for n in range(5000)]
    provider.reply = lambda _: fields(rows=rows)
    got = runtime.adapter(timeout=120).generate(signature="table: list -> rows: list", inputs={"table": rows})
    assert got.rows == rows
