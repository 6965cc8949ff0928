"""What a model is asked with types of the caller's own: byte for byte what DSPy asks with the classes."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

import dspex
from tests import signature_types as types
from tests.provider import Provider, text

# Fields named like methods of pydantic's work all the same.
pytestmark = pytest.mark.filterwarnings("ignore:Field name")

dspy: Any = importlib.import_module("dspy")
MODEL = "openai/gpt-4o-mini"  # DSPy knows that it enforces JSON schemas
ADAPTERS: dict[str, Any] = {"chat": dspy.ChatAdapter, "json": dspy.JSONAdapter, "xml": dspy.XMLAdapter}


@pytest.fixture(scope="module")
def serving() -> Iterator[tuple[Provider, dspex.Runtime]]:
    with (
        Provider() as provider,
        dspex.Runtime(
            pools={"general": dspex.PoolOptions(workers=1)},
            settings=dspex.Settings(allow_modules=("tests.signature_types",)),
        ) as runtime,
    ):
        yield provider, runtime


def written(adapter: str, values: Mapping[str, str]) -> str:
    """What a model would answer in the form that an adapter asks for."""
    if adapter == "json":
        plain = {
            name: value if re.match(r"[a-zA-Z]|\d+-", value) else json.loads(value)
            for name, value in values.items()
            if value != "True"
        }
        return json.dumps(plain | {name: True for name, value in values.items() if value == "True"})
    if adapter == "xml":
        return "\n".join(f"<{name}>{value}</{name}>" for name, value in values.items())
    fields = "".join(f"[[ ## {name} ## ]]\n{value}\n\n" for name, value in values.items())
    return f"{fields}[[ ## completed ## ]]"


def both(
    serving: tuple[Provider, dspex.Runtime],
    adapter: str,
    signature: Any,
    inputs: Mapping[str, Any],
    reply: str,
    given: Any = None,
    module: str = "Predict",
) -> tuple[Any, dspex.Response]:
    """The same call by DSPy and by dspex: their answers, once the requests were compared."""
    provider, runtime = serving
    provider.reply = lambda _: text(reply)
    provider.requests.clear()
    lm = dspy.LM(MODEL, api_base=provider.base_url, api_key="k", engine="lm15", cache=False, num_retries=0)
    with dspy.context(lm=lm, adapter=ADAPTERS[adapter](), warn_on_type_mismatch=False):
        theirs = getattr(dspy, module)(signature)(**inputs)
    own = dspex.LM(
        MODEL, base_url=provider.base_url, api_key="k", adapter=adapter, retry=dspex.Retry(attempts=1)
    )
    ours = runtime.adapter(lm=own).generate(
        module=module, signature=signature if given is None else given, inputs=inputs
    )
    bodies = [request.body for request in provider.requests]
    assert len(bodies) == 2
    assert json.dumps(bodies[0]) == json.dumps(bodies[1])
    return theirs, ours


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_type_is_asked_for_and_read_as_by_dspy(
    serving: tuple[Provider, dspex.Runtime], adapter: str
) -> None:
    """If this failed, a model would be asked otherwise than by DSPy, or a value be of another type."""
    reply = written(adapter, {name: value for name, (_, value) in types.TYPES.items()})
    theirs, ours = both(serving, adapter, types.answering(), {"question": "?"}, reply)
    for name in types.TYPES:
        assert ours[name] == theirs[name], name
        assert type(ours[name]) is type(theirs[name]), name


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("name", types.TYPES)
def test_a_type_alone_is_asked_for_as_by_dspy(
    serving: tuple[Provider, dspex.Runtime], adapter: str, name: str
) -> None:
    """If this failed, a type would look right only beside others, with which it shares definitions."""
    kind = types.answering(name)
    theirs, ours = both(
        serving, adapter, kind, {"question": "?"}, written(adapter, {name: types.TYPES[name][1]})
    )
    assert (ours[name], type(ours[name])) == (theirs[name], type(theirs[name]))


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_what_a_signature_says_of_its_fields_reaches_the_model(
    serving: tuple[Provider, dspex.Runtime], adapter: str
) -> None:
    """If this failed, instructions, descriptions, constraints or defaults of a class would be lost."""
    reply = written(adapter, {"order": types.TYPES["order"][1], "stars": "4", "words": '["a"]'})
    inputs = {"mail": "It leaks.", "context": ["a", "b"]}
    theirs, ours = (
        both(serving, adapter, types.Sort, inputs, reply, module="ChainOfThought")
        if False
        else both(serving, adapter, types.Sort, inputs, reply)
    )
    assert (ours["order"], ours["stars"], ours["words"]) == (theirs.order, 4, ["a"])
    theirs, ours = both(serving, adapter, types.Sort, inputs, reply, given="tests.signature_types:Sort")
    assert (ours["order"]["lines"][0]["sku"], ours["stars"]) == ("k1", 4)
    # What is missing is what the class says.
    reply = written(adapter, {"order": '{"lines": []}'})
    theirs, ours = both(serving, adapter, types.Sort, inputs, reply)
    assert (ours["stars"], ours["words"]) == (theirs.stars, theirs.words) == (3, [])


@pytest.mark.parametrize("name", [name for name in types.TYPES if name not in ("maybe", "optional")])
def test_an_input_of_any_type_is_told_as_by_dspy(serving: tuple[Provider, dspex.Runtime], name: str) -> None:
    """If this failed, a model would read a value otherwise than with DSPy."""
    kind, said = types.TYPES[name]
    value = dspy.adapters.utils.parse_value(said, kind)
    signature = dspy.make_signature({name: (kind, dspy.InputField()), "answer": (str, dspy.OutputField())})
    both(serving, "chat", signature, {name: value}, written("chat", {"answer": "yes"}))
    given = {"inputs": {name: kind}, "outputs": ["answer"]}
    both(serving, "chat", signature, {name: value}, written("chat", {"answer": "yes"}), given)


def test_chain_of_thought_reasons_about_them_as_by_dspy(serving: tuple[Provider, dspex.Runtime]) -> None:
    """If this failed, a module that adds a field to the signature would lose the types of the others."""
    reply = written("chat", {"reasoning": "So.", "pet": types.TYPES["pet"][1]})
    theirs, ours = both(
        serving, "chat", types.answering("pet"), {"question": "?"}, reply, module="ChainOfThought"
    )
    assert ours.outputs == {"reasoning": "So.", "pet": theirs.pet}


def test_several_completions_have_the_types(serving: tuple[Provider, dspex.Runtime]) -> None:
    """If this failed, the first of several answers would be of the caller's class and the others data."""
    provider, runtime = serving
    provider.reply = lambda _: text(written("chat", {"pet": types.TYPES["pet"][1]}))
    lm = dspex.LM(MODEL, base_url=provider.base_url, api_key="k")
    got = runtime.adapter(lm=lm).generate("?", signature=types.answering("pet"), n=2, temperature=1.0)
    assert got.completions == [{"pet": types.Dog(kind="dog", barks=True)}] * 2
    ready = runtime.adapter(lm=lm, serialization_format="json").generate(
        "?", signature=types.answering("pet")
    )
    assert ready.outputs == {"pet": {"kind": "dog", "barks": True}}


def test_fields_may_have_odd_names(serving: tuple[Provider, dspex.Runtime]) -> None:
    """If this failed, fields that DSPy takes would be refused or mixed up with something else."""
    values = {"error": "e", "keys": "k", "items": '["i"]', "model": "m", "json": "j", "copy": "3"}
    _, ours = both(serving, "chat", types.Plain, {"id": "1", "type": "t"}, written("chat", values))
    assert ours.outputs == {**values, "items": ["i"], "copy": 3}
    both(
        serving,
        "chat",
        types.Plain,
        {"id": "1", "type": "t"},
        written("chat", values),
        "tests.signature_types:Plain",
    )
