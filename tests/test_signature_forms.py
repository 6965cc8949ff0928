"""Signatures as dicts, JSON Schemas and classes: what they come to, and what is refused at its place."""

from __future__ import annotations

import enum
from typing import Any

import pydantic
import pytest

import dspex
from dspex.errors import InvalidSignature
from dspex.program.forms import is_path, read
from dspex.program.signature import Field, Signature, parse

PERSON = {
    "type": "object",
    "title": "Person",
    "properties": {"name": {"type": "string", "minLength": 2}, "day": {"type": "string", "format": "date"}},
    "required": ["name"],
}


class Address(pydantic.BaseModel):
    city: str


class Color(enum.Enum):
    RED = "red"


class Opaque:
    """A class that says nothing of its values."""


def spelled(schema: Any) -> str:
    """What the type of a field with this schema is spelled as."""
    return read({"inputs": ["q"], "outputs": {"a": {"type": schema}}}).signature.outputs[0].type


def test_a_dict_is_the_signature_that_its_text_would_be() -> None:
    """If this failed, one signature would be two programs, by the form that it was given in."""
    given: dict[str, Any] = {
        "inputs": {"question": None, "context": "list[str]"},
        "outputs": {"answer": {"type": "Literal['yes', 'no']", "description": "short"}, "day": "date"},
        "instructions": "Be brief.",
    }
    expected = parse("question, context: list[str] -> answer: Literal['yes', 'no'], day: date")
    answer, day = expected.outputs
    assert read(given).signature == Signature(
        expected.inputs,
        (Field(answer.name, answer.type, "short"), day),
        "Be brief.",
    )
    listed = {
        **given,
        "inputs": ["question", {"name": "context", "type": "list[str]"}],
        "outputs": [
            {"name": name, **(said if isinstance(said, dict) else {"type": said})}
            for name, said in given["outputs"].items()
        ],
    }
    assert read(listed).signature == read(given).signature


@pytest.mark.parametrize(
    ("schema", "type_"),
    [
        ({"type": "string"}, "str"),
        ({"type": "integer"}, "int"),
        ({"type": "number"}, "float"),
        ({"type": "boolean"}, "bool"),
        ({}, "Any"),
        ({"type": ["string", "null"]}, "str | None"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "int | None"),
        ({"enum": ["a", "b", 3]}, "Literal['a', 'b', 3]"),
        ({"const": "x"}, "Literal['x']"),
        ({"type": "string", "format": "date"}, "datetime.date"),
        ({"type": "string", "format": "date-time"}, "datetime.datetime"),
        ({"type": "string", "format": "uuid"}, "uuid.UUID"),
        ({"type": "array", "items": {"type": "string"}}, "list[str]"),
        ({"type": "array"}, "list"),
        ({"type": "array", "prefixItems": [{"type": "string"}], "minItems": 1, "maxItems": 1}, "tuple[str]"),
        ({"type": "object"}, "dict[str, Any]"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "dict[str, int]"),
        ({"type": "string", "description": "what", "title": "It"}, "str"),
        (PERSON, "Person"),
        ({"type": "integer", "minimum": 1}, "int_2"),
        ({"enum": [1.5]}, "A"),
        ({"type": "array", "items": {"$ref": "#/$defs/P"}, "$defs": {"P": PERSON}}, "list[Person]"),
        ({"anyOf": [{"$ref": "#/$defs/P"}, {"type": "null"}], "$defs": {"P": PERSON}}, "Person | None"),
    ],
)
def test_a_schema_that_says_no_more_than_a_type_is_that_type(schema: dict[str, Any], type_: str) -> None:
    """If this failed, a model would be asked in longer words for what DSPy has a short one for."""
    assert spelled(schema) == type_


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"outputs": {"a": "str"}}, "inputs"),
        ({"inputs": {}, "outputs": {"a": "str"}}, "inputs"),
        ({"inputs": "q", "outputs": {"a": "str"}}, "inputs"),
        ({"inputs": ["q"], "outputs": {"a": "str"}, "input": 1}, "input"),
        ({"inputs": ["q"], "outputs": {"a": "str"}, "instructions": 1}, "instructions"),
        ({"inputs": ["q"], "outputs": {"a": "string"}}, "outputs.a"),
        ({"inputs": ["q"], "outputs": {"a": 3}}, "outputs.a"),
        ({"inputs": ["q"], "outputs": {3: "str"}}, "outputs.3"),
        ({"inputs": ["q"], "outputs": {"q": "str"}}, "outputs.q"),
        ({"inputs": ["lm"], "outputs": {"a": "str"}}, "inputs[0]"),
        ({"inputs": [{"type": "str"}], "outputs": {"a": "str"}}, "inputs[0]"),
        ({"inputs": ["q"], "outputs": {"a": {"type": "str", "desc": "x"}}}, "outputs.a.desc"),
        ({"inputs": ["q"], "outputs": {"a": {"type": "str", "description": 1}}}, "outputs.a.description"),
        ({"inputs": ["q"], "outputs": {"a": {"type": {"type": "text"}}}}, "outputs.a.type.type"),
        ({"inputs": ["q"], "outputs": {"a": {"type": "array", "items": 3}}}, "outputs.a.items"),
        ({"inputs": ["q"], "outputs": {"a": {"type": "string", "if": {}}}}, "outputs.a.if"),
        ({"inputs": ["q"], "outputs": {"a": {"$ref": "#/$defs/X"}}}, "outputs.a"),
        ({"inputs": ["q"], "outputs": {"a": {"$ref": "https://example.com/x.json"}}}, "outputs.a"),
        (
            {"inputs": ["q"], "outputs": {"a": {"type": "object", "properties": {"b": {"type": "text"}}}}},
            "outputs.a.properties.b.type",
        ),
        (
            {
                "inputs": ["q"],
                "outputs": {"a": {"type": "object", "properties": {"b": {}}, "required": ["c"]}},
            },
            "outputs.a.required",
        ),
        ({"inputs": ["q"], "outputs": {"a": {"type": "string", "pattern": "(?=x)"}}}, "outputs.a.pattern"),
        ({"inputs": ["q"], "outputs": {"a": Opaque}}, "outputs.a"),
        ({"inputs": ["q"], "outputs": {"a": list[Opaque]}}, "outputs.a"),
        ({"inputs": ["q"], "outputs": {"a": list["Address"]}}, "outputs.a"),
    ],
)
def test_what_is_not_taken_is_refused_at_its_place(given: dict[Any, Any], path: str) -> None:
    """If this failed, a caller would look for a fault in the wrong place, or not be told of it."""
    with pytest.raises(InvalidSignature) as caught:
        read(given)
    assert caught.value.details["path"] == path
    assert len(caught.value.message) < 400


def test_a_class_stays_with_its_caller_and_its_schema_travels() -> None:
    """If this failed, outputs would come back as data though the caller gave the class for them."""
    given = read({"inputs": {"where": Address}, "outputs": {"all": list[Address], "color": Color, "n": int}})
    assert given.inputs == {"where": Address}
    assert given.outputs == {"all": list[Address], "color": Color}
    assert [field.type for field in given.signature.outputs] == ["list[Address]", "Color", "int"]
    assert {shape.name: shape.kind for shape in given.signature.shapes} == {
        "Address": "record",
        "Color": "enum",
    }
    assert '"city"' in next(shape.schema for shape in given.signature.shapes if shape.name == "Address")


def test_a_form_is_read_once_and_changes_are_seen() -> None:
    """If this failed, each call would pay for reading its signature, or an old one would be used."""
    form: dict[str, dict[str, Any]] = {"inputs": {"q": "str"}, "outputs": {"a": Address}}
    assert read(form) is read({**form})
    assert read(form) is not read({"inputs": {"q": "str"}, "outputs": {"a": Color}})
    assert read(Address) is read(Address)
    form["outputs"]["a"] = "str"
    assert read(form).signature.outputs[0].type == "str"


def test_a_pydantic_model_is_what_is_asked_for() -> None:
    """If this failed, the fields of a model would not be the outputs, or its words not the instructions."""

    class Invoice(pydantic.BaseModel):
        """Read an invoice."""

        number: str = pydantic.Field(description="as printed", min_length=2)
        to: Address | None = None

    given = read(Invoice)
    assert [field.name for field in given.signature.inputs] == ["prompt"]
    number, to = given.signature.outputs
    assert (number.type, number.description, number.constraints) == ("str", "as printed", "minimum length: 2")
    assert (to.type, to.default) == ("Address | None", "null")
    assert given.signature.instructions == "Read an invoice."
    assert set(given.outputs) == {"number", "to"}


@pytest.mark.parametrize("given", [3, None, ["q -> a"], object(), int, Signature, b"q -> a"])
def test_what_is_no_signature_is_refused(given: object) -> None:
    """If this failed, something else than a signature would end in an error of Python's."""
    with pytest.raises(InvalidSignature):
        read(given)


def test_an_import_path_is_told_from_a_text() -> None:
    """If this failed, a text would be imported, or a path be read as a text."""
    assert is_path("shop.types:QA")
    for text in ("q: int -> a", "q:int->a", "question -> answer", "q", "q: str", 3, "a:b -> c", "a:b,c"):
        assert not is_path(text)


def test_types_of_one_name_are_kept_apart() -> None:
    """If this failed, a class named like another one, or like a type of Python's, would be taken for it."""
    other = pydantic.create_model("Address", street=(str, ...))
    date = pydantic.create_model("date", text=(str, ...))
    given = read(
        {"inputs": ["q"], "outputs": {"a": Address, "b": other, "c": date, "d": PERSON, "e": "date"}}
    )
    types = [field.type for field in given.signature.outputs]
    assert types == ["Address", "Address_2", "date_2", "Person", "datetime.date"]
    assert given.signature.shapes[1].name == "Address"
    assert dspex.Signature is Signature
