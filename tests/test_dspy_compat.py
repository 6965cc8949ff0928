"""Each change that dspex makes inside DSPy, compared with the stock code.

The changes hold for a whole process, so each comparison runs in one of its own: a function of this file
that takes down what stock DSPy does, makes the changes, and takes the same down again.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from collections.abc import Callable
from typing import Annotated, Any, Literal, Optional

import pydantic

from tests.fresh import fresh


class Color(enum.Enum):
    RED = "red"
    BLUE = 2


class Near(pydantic.BaseModel):
    name: str
    since: dt.date | None = None


class Place(pydantic.BaseModel):
    name: str
    color: Color = Color.RED
    near: list[Near] = []


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.5


class Comparing(type):  # noqa: PLW1641 (that is what it is for)
    """A class of this kind cannot be hashed."""

    def __eq__(cls, other: object) -> bool:
        return cls is other


@dataclasses.dataclass
class Unhashable(metaclass=Comparing):
    x: int


PLACE = Place(name="Rome", near=[Near(name="Ostia", since=dt.date(2020, 1, 2))])
VALUES = [
    "text", "", 1, True, 1.5, None, [1, "a"], {"a": [1]}, (1, 2), {3}, b"x", Color.RED, PLACE, [PLACE],
    Point(1), {"p": PLACE}, dt.date(2024, 1, 2), float("nan"), object, len, pydantic.SecretStr("s"),
]  # fmt: skip
ANNOTATIONS: list[Any] = [
    str, int, float, bool, list, dict, Any, list[str], dict[str, int], tuple[int, ...], set[int], int | None,
    Optional[int], str | None, int | str, Literal[1], Literal[True], Literal[1, 2], Literal["a", "b"],  # noqa: UP045
    Literal["1"], list[Literal[1]], list[Literal[True]], Color, list[Color], Place, list[Place], Place | None,
    dict[str, Place], Point, dt.date, Annotated[int, pydantic.Field(gt=5)],
    Annotated[int, pydantic.Field(gt=0)], Annotated[int, ["cannot be hashed"]], list[Annotated[str, {}]],
]  # fmt: skip
TEXTS = [
    "1", "True", "true", "2", "7", "a", "'a'", "", "null", "None", "red", "RED", "2024-01-02", "[1, 2]",
    '["a"]', '["red"]', "[true]", '{"a": 1}', '{"x": 3}', "{'x': 1}", PLACE.model_dump_json(),
    f"[{PLACE.model_dump_json()}]", 1, True, 2.0, None, [1], [True], {"name": "Rome"},
]  # fmt: skip


def _said(function: Callable[..., Any], *arguments: Any) -> str:
    try:
        return repr(function(*arguments))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _values() -> list[str]:
    from dspy.adapters.utils import parse_value, serialize_for_json

    formatted = [f"{value!r}: {_said(serialize_for_json, value)}" for value in VALUES]
    return formatted + [
        f"{annotation} of {text!r}: {_said(parse_value, text, annotation)}"
        for annotation in ANNOTATIONS
        for text in TEXTS
    ]


def compare_values() -> Any:
    """What values look like and how they are read, before, when each type is new, and from the cache."""
    stock = _values()
    from dspex.worker import dspy_compat

    dspy_compat.prepare()
    return stock, _values(), _values()


def test_values_are_written_and_read_as_before() -> None:
    """A cached type adapter of one annotation would serve another one that is equal to it, or fail."""
    stock, new, again = fresh(compare_values)
    assert new == stock
    assert again == stock


def compare_unhashable() -> Any:
    """A value of a class that cannot be hashed, as stock DSPy and as ours shows it."""
    from dspy.adapters.utils import serialize_for_json

    stock = _said(serialize_for_json, Unhashable(1))
    from dspex.worker import dspy_compat

    dspy_compat._cache_type_adapters()
    return stock, _said(serialize_for_json, Unhashable(1))


def test_a_value_of_a_class_that_cannot_be_hashed_is_written_as_before() -> None:
    """The model would be shown the value's `repr` in place of its JSON."""
    stock, ours = fresh(compare_unhashable)
    assert ours == stock == "{'x': 1}"


def compare_model_info() -> Any:
    """How many questions about models were asked, and those that ours answers otherwise than stock."""
    import dspy
    from dspy.clients import capabilities, costs, model_metadata

    from dspex.worker import dspy_compat

    stock = model_metadata.model_info
    dspy_compat.prepare()
    known = [name for name, entry in model_metadata._load().items() if isinstance(entry, dict)][::150]
    names = [*known, *(name.rpartition("/")[2] for name in known), "gpt-4o-mini", "gpt-5-mini", "no-such", ""]
    providers = ["openai-chat", "anthropic", "gemini", "nobody"]
    asked: list[tuple[str, str, Any]] = [
        (provider, name, namespaces)
        for name in names
        for provider in providers
        for namespaces in (None, ["openai"])
    ]
    asked += [("openai", "gpt-4o-mini", ()), ("x", "gpt-4o-mini", ("openai", "azure"))]
    expected = [stock(provider, name, namespaces=spaces) for provider, name, spaces in asked]

    def different() -> list[Any]:
        return [
            question
            for module in (costs, capabilities)
            for question, answer in zip(asked, expected, strict=True)
            if module.model_info(question[0], question[1], namespaces=question[2]) != answer
        ]

    first = different()
    message = dspy.lm15.Message.assistant([dspy.lm15.TextPart("yes")])
    usage = dspy.lm15.Usage(input_tokens=1000, output_tokens=10, total_tokens=1010)
    for provider, name, _ in asked:
        answer = dspy.lm15.Response(
            id=None, model=name or "x", message=message, finish_reason="stop", usage=usage
        )
        costs.estimate_cost(answer, provider=provider, requested_model=name)
    for model in (
        "openai/gpt-4o-mini",
        "openai/gpt-5-mini",
        "anthropic/claude-sonnet-4-5",
        "gemini/gemini-2.5-pro",
    ):
        capabilities.capabilities(dspy.LM(model, engine="lm15", api_key="k"))
    return len(asked), first, different()


def test_models_are_known_as_before_and_nobody_spoils_what_is_remembered() -> None:
    """Prices and abilities of one model would be told of another, or change while a worker runs."""
    asked, first, after_use = fresh(compare_model_info)
    assert asked > 200
    assert first == []
    assert after_use == []


def compare_fields() -> Any:
    """The fields of signatures that were derived from one another, by stock and by ours."""
    import dspy

    from dspex.worker import dspy_compat

    meta = dspy.signatures.signature.SignatureMeta
    stock = meta._get_fields_with_type
    dspy_compat._cache_fields()
    base = dspy.Signature("question, context: list[str] -> answer, count: int")
    found = []
    for _ in range(2):  # the second time, all that they are derived from is remembered
        base.input_fields.clear()
        base.fields.clear()
        derived = [
            base,
            base.append("late", dspy.InputField(desc="last"), int),
            base.prepend("reasoning", dspy.OutputField()),
            base.insert(1, "middle", dspy.InputField(), bool),
            base.delete("context"),
            base.delete("count").append("count", dspy.OutputField(), str),
            base.with_updated_fields("answer", int, desc="a number"),
            base.with_instructions("Be terse."),
            base.load_state({**base.dump_state(), "instructions": "Other."}),
        ]
        for signature in derived:
            for kind in ("input", "output"):
                ours, theirs = meta._get_fields_with_type(signature, kind), stock(signature, kind)
                same = list(ours) == list(theirs) and all(ours[name] is theirs[name] for name in theirs)
                shown = [
                    f"{name}: {field.annotation} {field.json_schema_extra}" for name, field in ours.items()
                ]
                found.append((same, shown))
            assert list(signature.fields) == [*stock(signature, "input"), *stock(signature, "output")]
    return found


def test_signatures_derived_from_one_another_have_their_own_fields() -> None:
    """A field that was added or changed would be missing from prompts, or one be shown that was removed."""
    found = fresh(compare_fields)
    half = len(found) // 2
    assert all(same for same, _ in found)
    assert found[:half] == found[half:]
    names = [[field.partition(":")[0] for field in shown] for _, shown in found[:half]]
    assert names[:12] == [
        ["question", "context"], ["answer", "count"],
        ["question", "context", "late"], ["answer", "count"],
        ["question", "context"], ["reasoning", "answer", "count"],
        ["question", "middle", "context"], ["answer", "count"],
        ["question"], ["answer", "count"],
        ["question", "context"], ["answer", "count"],
    ]  # fmt: skip


def compare_rebuilt() -> Any:
    """The type of a field that was named before it existed, by stock and by ours."""
    import dspy

    from dspex.worker import dspy_compat

    meta = dspy.signatures.signature.SignatureMeta
    stock = meta._get_fields_with_type
    dspy_compat._cache_fields()

    class Early(dspy.Signature):  # type: ignore[misc]
        question: str = dspy.InputField()
        answer: Later = dspy.OutputField()  # type: ignore[name-defined] # noqa: F821

    Early.output_fields  # noqa: B018 (a look at it before it is whole)
    Early.model_rebuild(_types_namespace={"Later": Near})
    return [str(fields["answer"].annotation) for fields in (stock(Early, "output"), Early.output_fields)]


def test_a_signature_that_is_rebuilt_has_its_new_fields() -> None:
    """A class that names a type before it is defined would never find it."""
    stock, ours = fresh(compare_rebuilt)
    assert ours == stock


def saved_images() -> Any:
    """What a predictor saves that has learned from an image, before and after the changes."""
    import dspy

    from dspex.worker import dspy_compat

    predict = dspy.Predict("i: dspy.Image -> answer")
    predict.demos = [dspy.Example(i=dspy.Image("https://example.org/a.png"), answer="b")]
    stock = predict.dump_state()
    dspy_compat.prepare()
    again = dspy.Predict("i: dspy.Image -> answer")
    again.load_state(stock)
    return [state["demos"] for state in (stock, predict.dump_state(), again.dump_state())]


def test_saved_images_are_as_dspy_saves_them() -> None:
    """If this failed, a state that a worker saved could be read by no other process."""
    stock, changed, again = fresh(saved_images)
    assert stock == changed == again
    assert "CUSTOM-TYPE" in stock[0]["i"]
