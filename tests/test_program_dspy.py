"""What this package says about DSPy, tried on DSPy itself."""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import importlib
import inspect
import keyword
import os
import re
import uuid
from typing import Any

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.program import fieldtypes
from dspex.program.catalogue import find, fit
from dspex.program.fieldtypes import HISTORY
from dspex.program.options import GENERATION, check
from dspex.program.prompt import fill
from dspex.program.signature import (
    RESERVED_INPUTS,
    RESERVED_OUTPUTS,
    Signature,
    parse,
    resolve,
    type_of,
)

# pydantic warns of fields that shadow a method (`json`, `copy`); they work all the same.
pytestmark = pytest.mark.filterwarnings("ignore")


class Engine:
    """Answers every request with one text and remembers what it was asked."""

    def __init__(self, reply: str = "") -> None:
        self.reply = reply
        self.requests: list[Any] = []

    def complete(self, request: Any) -> Any:
        self.requests.append(request)
        lm15 = importlib.import_module("dspy.lm15")
        message = lm15.Message(role="assistant", parts=(lm15.TextPart(self.reply),))
        return lm15.Response(id=None, model="m", message=message, finish_reason="stop", usage=lm15.Usage())

    def close(self) -> None:
        """Part of the protocol."""


class AsyncEngine:
    """The same for `acall`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def complete(self, request: Any) -> Any:
        return self.engine.complete(request)

    async def aclose(self) -> None:
        """Part of the protocol."""


@pytest.fixture(scope="module")
def dspy() -> Any:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    return importlib.import_module("dspy")


def lm_of(dspy: Any, engine: Engine) -> Any:
    return dspy.LM(
        "openai/m", cache=False, num_retries=0, engine=engine, async_engine=AsyncEngine(engine), n=1
    )


def built(dspy: Any, signature: Signature) -> Any:
    """The signature as a worker hands it to DSPy."""
    extra = {HISTORY: dspy.History}
    fields = {field.name: (resolve(field.type, extra), dspy.InputField()) for field in signature.inputs}
    fields |= {field.name: (resolve(field.type, extra), dspy.OutputField()) for field in signature.outputs}
    return dspy.make_signature(fields, signature.instructions)


def replied(values: dict[str, str]) -> str:
    """What a model that keeps to the chat format would write."""
    return (
        "".join(f"[[ ## {name} ## ]]\n{value}\n\n" for name, value in values.items())
        + "[[ ## completed ## ]]"
    )


def misbehaves(dspy: Any, lm: Any, name: str, side: str, value: Any = "VALUE-IN") -> bool:
    """Whether DSPy fails on a field of that name, or loses what was in it."""
    given, answered = (name, "other_out") if side == "input" else ("other_in", name)
    engine = lm.engine
    engine.reply = replied({answered: "VALUE-OUT"})
    engine.requests.clear()
    demo = {given: "DEMO-IN", answered: "DEMO-OUT"}
    try:
        fields = {given: (type(value), dspy.InputField()), answered: (str, dspy.OutputField())}
        signature = dspy.make_signature(fields)
        predict = dspy.Predict(signature, n=2)
        predict.demos = [demo]
        with dspy.context(lm=lm, adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
            prediction = predict(**{given: value})
            assert asyncio.run(predict.acall(**{given: value})).toDict() == prediction.toDict()
        asked = str(engine.requests[0].system) + str(engine.requests[0].messages)
        return not (
            list(signature.input_fields) == [given]
            and all(text in asked for text in ("VALUE-IN", "DEMO-IN", "DEMO-OUT", f"## {name} ##"))
            and prediction[answered] == "VALUE-OUT"
            and prediction.toDict() == {answered: "VALUE-OUT"}
            and prediction.completions[1].toDict() == {answered: "VALUE-OUT"}
        )
    except Exception:
        return True


ORDINARY = """
    id error type json items keys values copy dict list str int name text input output question answer prompt
    messages content role temperature n score history trace tools item entry usage logprobs reasoning
    completed prediction args kwargs cls fn call_id callbacks match case x__ dspy_x model_x 質問 größe
"""


def candidates(dspy: Any) -> set[str]:
    """Every name that DSPy or pydantic knows something by, and ordinary ones."""
    names = set(re.findall(r"\w+", ORDINARY))
    for known in (
        *(dspy.Signature, type(dspy.Signature), dspy.Predict, dspy.Prediction, pydantic.BaseModel),
        *(dspy.ChainOfThought, dspy.LM, dspy.ChatAdapter, dspy.JSONAdapter, dspy.XMLAdapter),
    ):
        names |= set(dir(known))
        for name in dir(known):
            attribute = inspect.getattr_static(known, name)
            attribute = getattr(attribute, "__func__", attribute)
            if inspect.isfunction(attribute):
                names |= set(inspect.signature(attribute).parameters)
    names |= set(inspect.signature(dspy.make_signature).parameters)
    names |= set(inspect.signature(pydantic.create_model).parameters)
    return {name for name in names if not name.startswith("_") and not keyword.iskeyword(name)}


def test_the_reserved_names_are_exactly_those_that_dspy_cannot_have(dspy: Any) -> None:
    """If this failed, a name that works would be refused, or one that loses its value let through."""
    lm = lm_of(dspy, Engine())
    tried = candidates(dspy) | RESERVED_INPUTS | RESERVED_OUTPUTS
    assert len(tried) > 250
    found = {
        side: {name for name in tried if misbehaves(dspy, lm, name, side)} for side in ("input", "output")
    }
    assert found["input"] == RESERVED_INPUTS
    assert found["output"] == RESERVED_OUTPUTS


def test_only_the_input_prediction_loses_a_dict(dspy: Any) -> None:
    """If this failed, the rule about `prediction` would be needless, or needed for more names."""
    lm = lm_of(dspy, Engine())
    option = {"type": "content", "content": "VALUE-IN"}
    tried = candidates(dspy) - RESERVED_INPUTS
    assert {name for name in tried if misbehaves(dspy, lm, name, "input", option)} == {"prediction"}
    assert not misbehaves(dspy, lm, "prediction", "input")


def test_names_in_any_script_work_asynchronously_too(dspy: Any) -> None:
    """If this failed, a name would pass here and break on the path that workers really take."""
    engine = Engine(replied({"回答": "ja"}))

    async def call() -> Any:
        with dspy.context(lm=lm_of(dspy, engine)):
            return await dspy.Predict(built(dspy, parse("質問, json, items -> 回答"))).acall(
                質問="a", json="b", items="c"
            )

    assert asyncio.run(call())["回答"] == "ja"


#: One of each allowed type, and an answer as a model would write it.
ANSWERS: dict[str, tuple[str, Any]] = {
    "str": ("a", "a"),
    "int": ("1", 1),
    "float": ("1.5", 1.5),
    "bool": ("True", True),
    "Any": ('{"a": 1}', {"a": 1}),
    "None": ("None", None),
    "list": ("[1]", [1]),
    "list[str]": ('["a"]', ["a"]),
    "dict": ('{"a": 1}', {"a": 1}),
    "dict[str, list[int]]": ('{"a": [1]}', {"a": [1]}),
    "tuple": ("[1]", (1,)),
    "tuple[int, str]": ('[1, "a"]', (1, "a")),
    "tuple[int, ...]": ("[1, 2]", (1, 2)),
    "set": ("[1]", {1}),
    "set[int]": ("[1, 1]", {1}),
    "frozenset[str]": ('["a"]', frozenset("a")),
    "int | None": ("None", None),
    "int | str | None": ("3", "3"),
    "Any | None": ("[1]", [1]),
    "Literal['a', 'b']": ("b", "b"),
    "Literal[1, True, None]": ("1", 1),
    "Literal[-1]": ("-1", -1),
    "list[Literal['it\\'s \"so\"']]": ('["it\'s \\"so\\""]', ['it\'s "so"']),
    "datetime.date": ("2026-01-02", dt.date(2026, 1, 2)),
    "datetime.datetime": ("2026-01-02T03:04:05", dt.datetime.fromisoformat("2026-01-02T03:04:05")),
    "datetime.time": ("03:04:05", dt.time(3, 4, 5)),
    "datetime.timedelta": ("PT5M", dt.timedelta(minutes=5)),
    "decimal.Decimal": ("1.5", decimal.Decimal("1.5")),
    "uuid.UUID": (str(uuid.UUID(int=7)), uuid.UUID(int=7)),
}


@pytest.mark.parametrize("spelled", ANSWERS)
def test_every_allowed_type_works_in_dspy(dspy: Any, spelled: str) -> None:
    """If this failed, a type that we allow would break in the worker, as input or as output."""
    text, expected = ANSWERS[spelled]
    signature = parse(f"q: {spelled} -> a: {spelled}")
    assert signature.outputs[0].type == spelled
    engine = Engine(replied({"a": text}))
    with dspy.context(lm=lm_of(dspy, engine)):
        prediction = dspy.Predict(built(dspy, signature))(q=expected)
    given = prediction.toDict()["a"]
    assert given == expected or (isinstance(expected, set | frozenset) and set(given) == expected)
    assert "## q ##" in str(engine.requests[0].messages)


def test_no_allowed_type_was_left_out() -> None:
    """If this failed, a type would be allowed that was never tried on DSPy."""
    nodes = [type_of(spelled) for spelled in ANSWERS]
    allowed = {*fieldtypes._PLAIN, *fieldtypes._FORMS}
    assert {name for name in allowed if any(node.mentions(name) for node in nodes)} == allowed


TYPES = st.recursive(
    st.sampled_from(["str", "int", "Any", "datetime.date", "uuid.UUID", "Literal['a', 1, True]", "list"]),
    lambda inner: st.one_of(
        inner.map("list[{}]".format),
        inner.map("Optional[{}]".format),
        inner.map("tuple[{}, ...]".format),
        inner.map("dict[str, {}]".format),
        st.tuples(inner, inner).map(" | ".join),
        st.tuples(inner, inner).map(lambda pair: f"typing.Union[{pair[0]}, {pair[1]}]"),
    ),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(TYPES)
def test_types_mean_what_they_mean_to_dspy(dspy: Any, written: str) -> None:
    """If this failed, a signature would mean another type here than in the caller's own DSPy."""
    canonical = parse(f"q: {written} -> a").inputs[0].type
    assert parse(f"q: {canonical} -> a").inputs[0].type == canonical
    theirs = dspy.make_signature(f"q: {canonical} -> a: {written.replace('typing.', '')}")
    assert theirs.input_fields["q"].annotation == resolve(canonical)
    assert theirs.output_fields["a"].annotation == resolve(canonical)


def test_a_conversation_reaches_the_model(dspy: Any) -> None:
    """If this failed, turns and instructions made from messages would not be in what DSPy sends."""
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who wrote Emma?"},
        {"role": "assistant", "content": "Jane Austen."},
        {"role": "user", "content": "When?"},
    ]
    signature, inputs = fill(parse("question -> answer"), messages, None)
    inputs["history"] = dspy.History(messages=inputs["history"])
    engine = Engine(replied({"answer": "1815"}))
    with dspy.context(lm=lm_of(dspy, engine)):
        assert dspy.Predict(built(dspy, signature))(**inputs).answer == "1815"
    request = engine.requests[0]
    assert [message.role for message in request.messages] == ["user", "assistant", "user"]
    for message, text in zip(request.messages, ("Who wrote Emma?", "Jane Austen.", "When?"), strict=True):
        assert text in str(message)
    assert "Be brief." in str(request.system)
    own = built(dspy, parse(signature.text)).instructions
    assert signature.instructions == f"{own}\n\nBe brief."


def test_options_reach_the_request(dspy: Any) -> None:
    """If this failed, an option that we accept would be dropped or refused on its way to the provider."""
    values = {
        "temperature": 0.5,
        "max_tokens": 10,
        "top_p": 0.5,
        "n": 2,
        "stop": "x",
        "seed": 3,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "reasoning_effort": "low",
    }
    assert set(values) == set(GENERATION)
    engine = Engine(replied({"reasoning": "r", "a": "x"}))
    with dspy.context(lm=lm_of(dspy, engine)):
        options = check(find("ChainOfThought"), values)
        prediction = dspy.ChainOfThought(built(dspy, parse("q -> a")), **options)(q="?")
    config = engine.requests[0].config
    assert (config.temperature, config.max_tokens, config.top_p, config.stop) == (0.5, 10, 0.5, ("x",))
    assert (config.seed, config.presence_penalty, config.frequency_penalty) == (3, 0.5, -0.5)
    assert config.reasoning.effort == "low"
    assert len(prediction.completions) == 2


@pytest.mark.parametrize("module", ["Predict", "ChainOfThought"])
@pytest.mark.parametrize("text", ["q -> a", "q, r: int -> a, b: list[str]", "q -> a, reasoning: list[str]"])
def test_fit_says_what_the_module_answers(dspy: Any, module: str, text: str) -> None:
    """If this failed, `describe` would promise other outputs, or another order, than DSPy gives."""
    fitted = fit(find(module), parse(text))
    theirs = getattr(dspy, module)(built(dspy, parse(text))).predictors()[0].signature
    assert list(theirs.output_fields) == [field.name for field in fitted.outputs]
    assert [info.annotation for info in theirs.output_fields.values()] == [
        resolve(field.type) for field in fitted.outputs
    ]
