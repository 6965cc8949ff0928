"""JSON Schemas and types from people who mean harm: refused at their place, and nothing imported or run."""

from __future__ import annotations

import importlib
import json
import os
import sys
import typing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from dspex.errors import InvalidSignature
from dspex.program.forms import read
from dspex.program.shapes import Shape
from dspex.program.signature import Field, Signature, of
from tests.test_hostile_signatures import forbidden

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # before DSPy, which would download it

from dspex.worker.shapes import plain
from dspex.worker.signatures import dspy_signature


def nested(depth: int, inner: Any) -> Any:
    """A schema inside schemas."""
    for _ in range(depth):
        inner = {"type": "array", "items": inner}
    return inner


def itself() -> dict[str, Any]:
    """A schema that contains itself."""
    schema: dict[str, Any] = {"type": "array"}
    schema["items"] = schema
    return schema


class Named:
    """Pretends to be a type of DSPy's."""

    __module__ = "dspy.adapters.types.image"
    __name__ = "Image"


RECORD = {"type": "object", "properties": {"x": {"type": "string"}}}
SCHEMAS: list[Any] = [
    {"$ref": "file:///etc/passwd"},
    {"$ref": "http://127.0.0.1:1/x.json"},
    {"$ref": "#"},
    {"$ref": "#/$defs/"},
    {"$ref": "#/$defs/../x"},
    {"$ref": "#/$defs/t0"},
    {"$ref": "#/properties/x", "properties": {"x": {"type": "string"}}},
    {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}},
    {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"anyOf": [{"$ref": "#/$defs/A"}]}}},
    {
        "anyOf": [{"$ref": "#/$defs/A"}],
        "$defs": {"A": {"oneOf": [{"type": "string"}, {"$ref": "#/$defs/A"}]}},
    },
    {"$ref": "#/$defs/__class__", "$defs": {"__class__": {"$ref": "os"}}},
    {"$ref": "#/$defs/a b", "$defs": {"a b": RECORD}},
    {"$dynamicRef": "#x"},
    {"$id": "http://127.0.0.1:1/"},
    {"$import": "os"},
    {"type": "__import__('os')"},
    {"type": ["string", "os.system"]},
    {"type": "os.system"},
    {"type": {"type": "list[os.system]"}},
    {"type": []},
    {"type": True},
    {"type": "string", "pattern": "(a" * 300},
    {"type": "string", "pattern": "(?=(a+)+)"},
    {"type": "string", "pattern": "(a{1000}){1000}"},
    {"type": "string", "pattern": "a" * 2000},
    {"type": "string", "maxLength": -1},
    {"type": "string", "maxLength": 1e400},
    {"type": "string", "minLength": True},
    {"type": "number", "multipleOf": 0},
    {"type": "number", "minimum": float("nan")},
    {"type": "array", "items": ["os"]},
    {"type": "object", "properties": {"x": "os.system"}},
    {"type": "object", "properties": ["x"]},
    {"type": "object", "properties": {"x": {}}, "required": ["__class__"]},
    {"type": "object", "$defs": ["x"]},
    {"enum": list(range(5000))},
    {"enum": []},
    {"enum": "os"},
    {"anyOf": []},
    {"allOf": [{"type": "string"}, {"type": "integer"}]},
    {"type": "string", "description": "x" * 1_000_000},
    {"type": "object", "properties": {f"x{n}": {"type": "string"} for n in range(50_000)}},
    {"type": "string", "description": "\ud800"},
    {"type": "string", "default": object()},
    {"type": "object", "properties": {"x": {"type": "object", "$defs": {"A": RECORD}}}},
    nested(100, RECORD),
    nested(50_000, RECORD),
    itself(),
    {"type": "Literal[__import__('os')]"},
    {"type": "list['os.system']"},
    {"type": "list[ForwardRef('os')]"},
    {"type": Named},
    {"type": typing.ForwardRef("os.system")},
    {"type": list.__class_getitem__("os.system")},
    {"type": dict.__class_getitem__((str, "os.system"))},
    {"type": typing.Callable[[], int]},
    {"type": (int, str)},
    {"type": lambda: None},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
def test_a_hostile_schema_is_refused_without_an_import(schema: Any) -> None:
    """If this failed, a schema from outside could load, run, or take for ever."""
    read({"inputs": ["q"], "outputs": {"warm": {"type": "string", "pattern": "a"}}})
    given = {"inputs": ["q"], "outputs": {"a": schema}}
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib, "import_module", forbidden)
        with pytest.raises(InvalidSignature) as caught:
            read(given)
    assert not {
        name for name in set(sys.modules) - before if not name.startswith(("pydantic", "annotated_types"))
    }
    json.dumps(caught.value.to_wire()).encode()
    assert len(caught.value.message) < 600


def test_a_title_and_a_name_are_only_words() -> None:
    """If this failed, what a schema calls itself would get into code, or be the name of another type."""
    titles = [
        "os.system",
        "__import__('os')",
        "str",
        "None",
        "x" * 5000,
        "a\nb",
        "Signature",
        "__class__",
        "",
    ]
    outputs = {f"a{n}": {**RECORD, "title": title} for n, title in enumerate(titles)}
    signature = read({"inputs": ["q"], "outputs": outputs}).signature
    assert of(signature) == signature
    for field in signature.outputs:
        assert field.type.isidentifier()
        assert len(field.type) <= 100
        assert field.type not in ("str", "None")


def test_properties_are_only_words() -> None:
    """If this failed, the name of a property would reach something of the class that is made for it."""
    names = [
        "__class__",
        "__init__",
        "model_config",
        "self",
        "_x",
        "copy",
        "a b",
        "",
        "class",
        "\0",
        "$ref",
        "x.y",
    ]
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": names}
    signature = read({"inputs": ["q"], "outputs": {"a": schema}}).signature
    made = dspy_signature(signature).model_fields["a"].annotation
    values = {name: f"value {n}" for n, name in enumerate(names)}
    assert plain(TypeAdapter(made).validate_python(values)) == values
    assert TypeAdapter(made).json_schema()["properties"].keys() == set(names)


def test_a_pattern_takes_no_more_time_than_the_text() -> None:
    """If this failed, a text of the model's or a caller's could hold a worker with a pattern."""
    schema = {"type": "string", "pattern": "^(a+)+$"}
    signature = read({"inputs": ["q"], "outputs": {"a": schema}}).signature
    made = dspy_signature(signature).model_fields["a"].annotation
    with pytest.raises(ValidationError):
        TypeAdapter(made).validate_python("a" * 100_000 + "!")


def test_a_recursive_schema_reads_values_of_any_depth_that_json_has() -> None:
    """If this failed, types that mention themselves would loop when they are made, shown or used."""
    tree = {
        "$ref": "#/$defs/Tree",
        "$defs": {
            "Tree": {
                "type": "object",
                "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}},
            },
            "Json": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"$ref": "#/$defs/Json"}}]},
        },
    }
    outputs = {"a": tree, "b": {**tree, "$ref": "#/$defs/Json"}}
    fields = dspy_signature(read({"inputs": ["q"], "outputs": outputs}).signature).model_fields
    made: dict[str, Any] = {name: info.annotation for name, info in fields.items()}
    value: Any = {}
    text: Any = "x"
    for _ in range(50):
        value, text = {"kids": [value]}, [text]
    assert plain(TypeAdapter(made["a"]).validate_python(value)) == value
    assert TypeAdapter(made["b"]).validate_python(text) == text
    assert "Tree" in TypeAdapter(made["a"]).json_schema()["$defs"]
    with pytest.raises(ValidationError):
        TypeAdapter(made["b"]).validate_python([[3]])


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(),
            st.sampled_from(["string", "object", "#/$defs/A", "os"]),
        ),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(
                    [
                        "type",
                        "properties",
                        "items",
                        "$ref",
                        "$defs",
                        "A",
                        "anyOf",
                        "enum",
                        "required",
                        "pattern",
                        "title",
                    ]
                ),
                inner,
                max_size=4,
            ),
        ),
        max_leaves=12,
    )
)
def test_any_schema_is_read_or_refused(schema: Any) -> None:
    """If this failed, some schema would end in another error than InvalidSignature."""
    try:
        signature = read({"inputs": ["q"], "outputs": {"a": {"type": schema}}}).signature
    except InvalidSignature:
        return
    assert of(signature) == signature
    made: Any = dspy_signature(signature).model_fields["a"].annotation
    TypeAdapter(made).json_schema()


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "{"},
        {"schema": '{"$ref": "#/$defs/t7"}'},
        {"schema": '{"$ref": "os"}'},
        {"schema": "[" * 100_000},
        {"schema": '"' + "x" * 1_000_000 + '"'},
        {"schema": 3},
        {"by_name": '{"$ref": "#/$defs/t1"}'},
        {"key": "os.system"},
        {"key": "str"},
        {"kind": "code"},
        {"name": None},
    ],
)
def test_a_shape_made_by_hand_is_checked(changes: dict[str, Any]) -> None:
    """If this failed, a signature that nobody's class or schema gave could upset a worker."""
    shape = {"key": "A", "name": "A", "home": "x.A", "kind": "record", "schema": "{}", **changes}
    made = Signature((Field("q"),), (Field("a", str(shape["key"])),), shapes=(Shape(**shape),))
    with pytest.raises(InvalidSignature):
        of(made)
