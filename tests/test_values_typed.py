"""Typed values on the wire: dspex's own and DSPy's arrive as what they are, and nothing else as one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.msgpack import Ext

import dspex
from dspex.wire import own
from dspex.wire.codes import OWN
from dspex.wire.jsonready import json_ready
from dspex.wire.values import WireError, decode
from tests.value_strategies import SLOW_OK, leaves
from tests.values import encode, encode_result, form

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # before DSPy, which would download it

import dspy
from dspy.adapters.types.citation import Citations
from dspy.adapters.types.document import Document

texts = st.text(max_size=20)
maybe = st.one_of(st.none(), texts)
inner = st.dictionaries(texts, st.one_of(leaves, st.lists(leaves, max_size=2)), max_size=3)
calls = st.builds(dspex.ToolCall, texts, inner, maybe)
citations = st.builds(
    dspex.Citation,
    cited_text=texts,
    document_index=st.integers(0, 9),
    start_char_index=st.integers(0, 2**40),
    end_char_index=st.integers(0, 2**40),
    document_title=maybe,
    supported_text=maybe,
)
typed = st.one_of(
    texts.map(lambda text: dspex.Image(f"data:image/png;base64,{text}".strip())),
    texts.map(lambda text: dspex.Image(f"https://example.org/{text}".strip())),
    st.builds(dspex.Audio, texts, texts),
    st.builds(dspex.File, file_id=texts.map(str.strip), filename=texts.map(str.strip)),
    st.builds(dspex.Document, texts, maybe, st.sampled_from(["text/plain", "application/pdf"]), maybe),
    st.builds(dspex.Code, texts, texts),
    st.builds(dspex.Reasoning, texts),
    st.builds(dspex.History, st.lists(inner, max_size=3)),
    calls,
    st.builds(dspex.ToolCalls, st.lists(calls, max_size=3), leaves),
    citations,
    st.builds(dspex.Citations, st.lists(citations, max_size=3)),
)


def same(one: Any, other: Any) -> bool:
    return bool(form(one) == form(other))


nested = st.recursive(
    typed,
    lambda part: st.one_of(
        st.lists(part, max_size=3),
        st.lists(part, max_size=3).map(tuple),
        st.dictionaries(texts, part, max_size=3),
        st.builds(lambda part: dspex.History([{"turn": part}]), part),
    ),
    max_leaves=8,
)


def travel(value: Any, known: dict[str, type] | None = None) -> Any:
    encoded = encode(value)
    return decode(encoded.data, encoded.types if known is None else known)


@given(nested)
@settings(max_examples=150, suppress_health_check=SLOW_OK)
def test_typed_values_arrive_as_they_were(value: Any) -> None:
    """If this failed, an image or a turn would arrive as something else, or lose a part."""
    assert same(travel(value), value)
    assert same(decode(encode_result(value), encode(value).types), value)


def in_dspy() -> list[tuple[Any, Any]]:
    """DSPy's values, and dspex's that hold the same."""
    call: dict[str, Any] = {"name": "search", "args": {"q": [1, None]}, "id": "c-1"}
    cited: dict[str, Any] = {
        "cited_text": "a",
        "document_index": 0,
        "start_char_index": 1,
        "end_char_index": 2,
    }
    return [
        (dspy.Image("https://example.org/a.png"), dspex.Image("https://example.org/a.png")),
        (dspy.Audio(data="AA==", audio_format="wav"), dspex.Audio("AA==", "wav")),
        (dspy.File(file_data="data:a/b;base64,AA=="), dspex.File("data:a/b;base64,AA==")),
        (Document(data="t", title="T"), dspex.Document("t", "T")),
        (dspy.Code(code="x"), dspex.Code("x")),
        (dspy.Code["java"](code="x"), dspex.Code("x", "java")),
        (dspy.Reasoning(content="since"), dspex.Reasoning("since")),
        (dspy.ToolCalls.from_dict_list([call]), dspex.ToolCalls([dspex.ToolCall(**call)])),
        (dspy.ToolCalls.ToolCall(**call), dspex.ToolCall(**call)),
        (Citations.from_dict_list([cited]), dspex.Citations([dspex.Citation(**cited)])),
        (
            dspy.History(messages=[{"pic": dspy.Image("https://example.org/a.png")}]),
            dspex.History([{"pic": dspex.Image("https://example.org/a.png")}]),
        ),
    ]


@pytest.mark.parametrize("pair", in_dspy(), ids=lambda pair: type(pair[1]).__name__)
def test_dspys_own_come_back_to_who_handed_them_in(pair: tuple[Any, Any]) -> None:
    """If this failed, a caller with DSPy would get the text of a marker, or a class that is not his."""
    theirs, ours = pair
    assert same(travel({"a": [theirs]}, known={}), {"a": [ours]})
    back = travel({"a": [theirs]})["a"][0]
    assert type(back) is type(theirs)
    assert back == theirs
    assert str(back) == str(theirs)


@pytest.mark.parametrize("pair", in_dspy(), ids=lambda pair: type(pair[1]).__name__)
def test_the_json_form_can_be_read_again(pair: tuple[Any, Any]) -> None:
    """If this failed, a client over HTTP could not send back what it was given."""
    theirs, ours = pair
    said = json_ready([theirs])
    assert said == json_ready([ours])
    assert "CUSTOM-TYPE" not in str(said)
    if not isinstance(theirs, dspy.History):  # whose parts know no types
        assert type(theirs).model_validate(said[0]) == theirs


def test_the_json_forms() -> None:
    """If this failed, a form that clients rely on would change unseen."""
    assert json_ready([ours for _, ours in in_dspy()]) == [
        {"url": "https://example.org/a.png"},
        {"data": "AA==", "audio_format": "wav"},
        {"file_data": "data:a/b;base64,AA=="},
        {"data": "t", "title": "T", "media_type": "text/plain", "context": None},
        "x",
        "x",
        "since",
        {"tool_calls": [{"name": "search", "args": {"q": [1, None]}, "id": "c-1"}]},
        {"name": "search", "args": {"q": [1, None]}, "id": "c-1"},
        {
            "citations": [
                {
                    "cited_text": "a",
                    "document_index": 0,
                    "start_char_index": 1,
                    "end_char_index": 2,
                    "document_title": None,
                    "supported_text": None,
                    "type": "char_location",
                }
            ]
        },
        {"messages": [{"pic": {"url": "https://example.org/a.png"}}]},
    ]


def test_what_dspy_lets_pass_and_dspex_does_not_arrives_as_plain_data() -> None:
    """If this failed, one odd value in an answer would lose all of it."""
    odd = [
        dspy.File(file_data="no data URL"),
        dspy.ToolCalls.ToolCall.model_construct(name=5, args={}, id=None),
    ]
    assert travel(odd, known={}) == [
        {"file_data": "no data URL", "file_id": None, "filename": None},
        {"name": 5, "args": {}, "id": None},
    ]


class Image:
    """Named like one of dspex's own."""


@dataclass
class Photo:
    """Named like one of DSPy's own, and in its place."""

    url: str


class Picture(dspy.Image):  # type: ignore[misc]
    """A subclass, which may hold more."""


Photo.__module__, Photo.__qualname__ = "dspy.adapters.types.image", "Image"


def test_a_users_class_is_never_taken_for_one() -> None:
    """If this failed, a user's class named like an internal one would come back as that."""
    assert type(travel(Photo("x"))) is Photo
    assert travel(Photo("x"), known={}) == {"url": "x"}
    picture = Picture("https://example.org/a.png")
    assert travel(picture, known={}) == {"url": "https://example.org/a.png"}
    assert type(travel(picture)) is Picture
    assert own.dspy_name(Image) is None
    with pytest.raises(dspex.InvalidInput, match=r"test_values_typed\.Image"):
        travel(Image())


BAD_ONES: list[tuple[Any, str]] = [
    (dspex.History("x"), "is not well made: Expected `array`"),  # type: ignore[arg-type]
    (dspex.History([{1: 2}]), "is not well made"),  # type: ignore[dict-item]
    (dspex.ToolCalls([5]), "reading it failed|is not well made"),  # type: ignore[list-item]
    (dspex.ToolCall(5, {}), "is not well made"),  # type: ignore[arg-type]
    (dspex.Document("\ud800"), "lone surrogate"),
    (dspex.Code("\ud800"), "lone surrogate"),
    (dspex.ToolCall("x", {"a": object()}), r"`object`"),
]


@pytest.mark.parametrize(("value", "why"), BAD_ONES, ids=range(len(BAD_ONES)))
def test_one_that_is_not_well_made_is_refused_by_its_caller(value: Any, why: str) -> None:
    """If this failed, a worker would fail on it, far from the line that made it."""
    with pytest.raises(dspex.InvalidInput, match=why) as caught:
        encode({"a": [value]}, where="inputs")
    assert str(caught.value).startswith("inputs.a[0]")


FORGED: list[Any] = [
    ["Image", {"url": "/etc/passwd"}],
    ["Image", {"url": 5}],
    ["Image", {}],
    ["Image", []],
    ["Image"],
    ["Image", {"url": "https://a/"}, 3],
    ["Nothing", {}],
    [5, {}],
    [["Image"], {}],
    ["Code", {"code": "x"}],
    ["Code", {"code": 5, "language": "x"}],
    ["Reasoning", {}],
    ["ToolCalls", {"tool_calls": [{"name": 1, "args": {}}]}],
    ["ToolCalls", {"tool_calls": "x"}],
    ["History", {"messages": [5]}],
    {},
]


@pytest.mark.parametrize("content", FORGED, ids=range(len(FORGED)))
@pytest.mark.parametrize(
    "known", [{}, {"=Image": dspy.Image, "=Code": dspy.Code, "=ToolCalls": dspy.ToolCalls}]
)
def test_a_forged_one_is_not_built(content: Any, known: dict[str, type]) -> None:
    """If this failed, a bad message could build half a value, or read a file by DSPy's hand."""
    data = msgspec.msgpack.encode(Ext(OWN, msgspec.msgpack.encode(content)))
    with pytest.raises(WireError):
        decode(data, known)


def test_one_language_is_one_class() -> None:
    """If this failed, each call would make another class of DSPy's, and none equal to the other."""
    java = own.code_class(dspy.Code, "java")
    assert own.code_class(dspy.Code, "java") is java
    assert own.code_class(java, "python").language == "python"
    assert own.code_class(dspy.Code, "python") is dspy.Code
