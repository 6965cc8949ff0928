"""Calls with types of the caller's own, through a real runtime: what is refused, and what comes back."""

from __future__ import annotations

import datetime as dt
import decimal
import json
from collections.abc import Iterator

import pytest

import dspex
from tests import signature_types as types
from tests.provider import Provider, fields, sequence

PERSON = {
    "type": "object",
    "properties": {
        "first-name": {"type": "string", "minLength": 2},
        "born": {"type": "string", "format": "date"},
        "copy": {"type": "integer", "default": 3},
        "kids": {"type": "array", "items": {"$ref": "#/$defs/Kid"}},
    },
    "required": ["first-name"],
    "$defs": {
        "Kid": {
            "type": "object",
            "properties": {
                "n": {"type": "string"},
                "kids": {"type": "array", "items": {"$ref": "#/$defs/Kid"}},
            },
            "required": ["n"],
            "additionalProperties": False,
        }
    },
}
MARK = "<<CUSTOM-TYPE-START-IDENTIFIER>>"


@pytest.fixture(scope="module")
def serving() -> Iterator[tuple[Provider, dspex.Runtime]]:
    with (
        Provider() as provider,
        dspex.Runtime(
            lm=dspex.LM("openai/x", base_url=provider.base_url, retry=dspex.Retry(attempts=1)),
            pools={"general": dspex.PoolOptions(workers=1)},
            settings=dspex.Settings(allow_modules=("tests.signature_types", "tests.agent_tools")),
        ) as runtime,
    ):
        yield provider, runtime


@pytest.fixture
def provider(serving: tuple[Provider, dspex.Runtime]) -> Provider:
    serving[0].requests.clear()
    return serving[0]


@pytest.fixture
def adapter(serving: tuple[Provider, dspex.Runtime]) -> dspex.DSPyAdapter:
    return serving[1].adapter()


def test_outputs_of_a_schema_are_plain_data(adapter: dspex.DSPyAdapter, provider: Provider) -> None:
    """If this failed, a caller without classes would get something else than the schema says."""
    provider.reply = lambda _: fields(p='{"first-name": "Al", "born": "2024-01-02", "kids": [{"n": "x"}]}')
    signature = {"inputs": ["q"], "outputs": {"p": PERSON}}
    person = {"first-name": "Al", "born": dt.date(2024, 1, 2), "copy": 3, "kids": [{"n": "x"}]}
    assert adapter.generate("?", signature=signature).outputs == {"p": person}
    provider.reply = lambda _: fields(p='{"first-name": "A"}')
    with pytest.raises(dspex.ParseError):
        adapter.generate("?", signature=signature)


def test_inputs_of_a_schema_are_checked_before_a_model_is_asked(
    adapter: dspex.DSPyAdapter, provider: Provider
) -> None:
    """If this failed, a caller would pay for a request with data that the schema refuses."""
    provider.reply = lambda _: fields(a="ok")
    signature = {"inputs": {"p": PERSON}, "outputs": ["a"]}
    adapter.generate(signature=signature, inputs={"p": {"first-name": "Al", "born": "2024-01-02"}})
    asked = provider.requests[-1].body["messages"][-1]["content"]
    assert '{"first-name": "Al", "born": "2024-01-02", "copy": 3}' in asked
    with pytest.raises(dspex.InvalidInput, match="first-name"):
        adapter.generate(signature=signature, inputs={"p": {"first-name": "A"}})
    assert len(provider.requests) == 1


def test_a_validator_of_the_callers_runs_in_its_process(
    adapter: dspex.DSPyAdapter, provider: Provider
) -> None:
    """If this failed, code of the caller's class would be skipped, on the way out or on the way back."""
    signature = {"inputs": {"who": types.Checked}, "outputs": {"friend": types.Checked}}
    provider.reply = lambda _: fields(friend='{"name": "eve"}')
    got = adapter.generate(signature=signature, inputs={"who": {"name": "adam"}})
    assert got.friend == types.Checked(name="Eve")
    assert '{"name": "Adam"}' in provider.requests[-1].body["messages"][-1]["content"]
    provider.reply = lambda _: fields(friend='{"name": "nobody"}')
    with pytest.raises(dspex.ParseError, match="there is nobody of that name") as caught:
        adapter.generate(signature=signature, inputs={"who": {"name": "adam"}})
    assert caught.value.details["text"] == '{"name": "nobody"}'
    assert caught.value.request_id
    with pytest.raises(dspex.InvalidInput, match="there is nobody of that name") as refused:
        adapter.generate(signature=signature, inputs={"who": {"name": "nobody"}})
    assert refused.value.details["field"] == "who"


def test_a_pydantic_model_gives_its_fields(adapter: dspex.DSPyAdapter, provider: Provider) -> None:
    """If this failed, the shortest way to structured outputs would not work, or not check constraints."""
    provider.reply = lambda _: fields(number="7", total="1.50", lines="[]")
    for signature in (types.Invoice, "tests.signature_types:Invoice"):
        got = adapter.generate("Bill 7", signature=signature)
        assert got.outputs == {"number": "7", "total": decimal.Decimal("1.5"), "lines": []}
    assert "greater than or equal to: 0" in provider.requests[0].body["messages"][0]["content"]
    assert provider.requests[0].body == provider.requests[1].body
    provider.reply = lambda _: fields(number="7", total="-1", lines="[]")
    with pytest.raises(dspex.ParseError, match="greater than or equal to 0"):
        adapter.generate("Bill 7", signature=types.Invoice)


def test_an_import_path_has_to_be_allowed_and_to_name_a_signature(adapter: dspex.DSPyAdapter) -> None:
    """If this failed, a caller's word could import a module, or end in an error of Python's."""
    with pytest.raises(dspex.NotAllowed, match="allow_modules"):
        adapter.generate("?", signature="tests.programs:Anything")
    with pytest.raises(dspex.NotAllowed):
        adapter.describe("antigravity:QA")
    with pytest.raises(dspex.InvalidSignature, match="did you mean 'Sort'"):
        adapter.generate("?", signature="tests.signature_types:Sorts")
    with pytest.raises(dspex.InvalidSignature, match="is no dspy"):
        adapter.generate("?", signature="tests.signature_types:Color")
    with pytest.raises(dspex.NotAllowed):
        adapter.generate("?", signature="tests.signature_types:RootModel")
    with pytest.raises(dspex.InvalidSignature, match="underscore"):
        adapter.generate("?", signature="tests.signature_types:_fields")


def test_a_signature_by_path_takes_its_own_types_as_inputs(
    adapter: dspex.DSPyAdapter, provider: Provider, serving: tuple[Provider, dspex.Runtime]
) -> None:
    """If this failed, the worker would not use the class itself, or let through what it refuses."""
    provider.reply = lambda _: fields(order='{"lines": []}')
    history = [{"role": "user", "content": "before"}, {"role": "assistant", "content": "so"}]
    got = adapter.generate(
        [*history, {"role": "user", "content": "It leaks."}],
        signature="tests.signature_types:Sort",
        inputs={"context": "none"},
    )
    assert got["stars"] == 3
    assert [message["role"] for message in provider.requests[-1].body["messages"]][1:] == [
        "user",
        "assistant",
        "user",
    ]
    bridge = serving[1].pool()
    inputs = {"mail": "It leaks.", "context": "none"}
    args = {"module": "dspy.Predict", "signature": "tests.signature_types:Sort", "inputs": inputs}
    assert bridge.execute("execute_module", args)["stars"] == 3
    with pytest.raises(dspex.InvalidInput, match="would take for"):
        adapter.generate(signature="tests.signature_types:Sort", inputs={**inputs, "mail": MARK})


def test_a_class_that_only_a_worker_knows_is_called_by_its_name(
    adapter: dspex.DSPyAdapter, provider: Provider
) -> None:
    """If this failed, a caller would be told that his order has to be Any."""
    with pytest.raises(dspex.InvalidInput, match=r"lines.*has to be Order, and dict given is not") as caught:
        adapter.generate(signature="tests.signature_types:Price", inputs={"order": {"lines": 3}})
    assert caught.value.details["expected"] == "Order"
    assert provider.requests == []


def test_a_signature_and_a_tool_may_both_be_import_paths(
    adapter: dspex.DSPyAdapter, provider: Provider
) -> None:
    """If this failed, a worker that loads a tool would not have loaded the signature."""
    finish = fields(next_thought="Enough.", next_tool_name="finish", next_tool_args="{}")
    invoice = fields(reasoning="So.", number="7", total="1.50", lines="[]")
    provider.reply = sequence(finish, invoice)
    got = adapter.generate(
        "Bill 7", module="ReAct", signature="tests.signature_types:Invoice", tools=["tests.agent_tools:pid"]
    )
    assert (got.number, got.total) == ("7", decimal.Decimal("1.5"))


def test_describe_tells_what_goes_in_and_comes_out(adapter: dspex.DSPyAdapter, provider: Provider) -> None:
    """If this failed, nobody could build a form or a client from a signature."""
    for given in (types.Sort, "tests.signature_types:Sort"):
        told = adapter.describe(given)
        assert (told.kind, told.instructions) == ("signature", "Sort a mail.\n\nRead it twice.")
        assert [field.name for field in told.inputs] == ["mail", "context"]
        assert told.outputs is not None
        stars, order, _ = told.outputs
        assert (stars.type, stars.required, order.required) == ("int", False, True)
        assert (order.type, order.description) == ("Order", "what it is about")
        assert order.schema["$defs"].keys() == {"Color", "Line", "Order"}
    text = adapter.describe("q: list[int], note: str | None -> a: Literal['x']")
    assert [(field.name, field.type, field.required) for field in text.inputs] == [
        ("q", "list[int]", True),
        ("note", "Union[str, NoneType]", False),
    ]
    module = adapter.describe("ChainOfThought")
    assert (module.kind, module.name) == ("module", "dspy.ChainOfThought")
    assert "temperature" in [option.name for option in module.options]
    assert json.loads(json.dumps(module.to_dict()))["outputs"][0]["name"] == "reasoning"
    with pytest.raises(dspex.ModuleNotFound, match="did you mean"):
        adapter.describe("ChainOfThoughts")
    with pytest.raises(dspex.InvalidSignature):
        adapter.describe({"inputs": ["q"]})
    assert provider.requests == []


@pytest.mark.anyio
async def test_twins_do_the_same(adapter: dspex.DSPyAdapter, provider: Provider) -> None:
    """If this failed, an event loop could not describe a signature, or would get other types."""
    provider.reply = lambda _: fields(pet='{"kind": "cat", "lives": 9}')
    got = await adapter.agenerate("?", signature=types.answering("pet"))
    assert got.pet == types.Cat(kind="cat", lives=9)
    assert (await adapter.adescribe("tests.signature_types:Invoice")).inputs[0].name == "prompt"
    assert (await adapter.adescribe("Predict")).kind == "module"


def test_large_and_odd_values_pass_through_types(adapter: dspex.DSPyAdapter, provider: Provider) -> None:
    """If this failed, a large text, a long list or a control character would be lost in a type."""
    odd = "\u0000\u0007\u2028\U0001f600e\u0301 \"'<>&[[ ## x ## ]]"
    text = "é" * 5_000_000
    rows = [{"itemNumber": f"k{n}", "price": n, "day": "2024-01-02", "tags": [odd]} for n in range(5000)]
    provider.reply = lambda _: fields(rows=json.dumps(rows), note=text)
    signature = {
        "inputs": {"lines": list[types.Line], "note": "str"},
        "outputs": {"rows": list[types.Line], "note_out": "str"},
    }
    provider.reply = lambda _: fields(rows=json.dumps(rows), note_out=text)
    lines = [types.Line.model_validate(row) for row in rows]
    got = adapter.generate(signature=signature, inputs={"lines": lines, "note": text}, timeout=120)
    assert got.rows == lines
    assert got.note_out == text
    asked = provider.requests[-1].body["messages"][-1]["content"]
    assert text in asked
    assert json.dumps(odd, ensure_ascii=False) in asked
