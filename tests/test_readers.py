"""Replies taken apart while they come, against what DSPy makes of them at their end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any
from xml.sax.saxutils import escape

import dspy
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dspex.worker.readers.chat import ChatReader
from dspex.worker.readers.jsontext import JSONReader
from dspex.worker.readers.xmltext import XMLReader

_SIGNATURE = dspy.Signature("question -> first: str, count: int, second: str")
_ENDS = ["\n", "\r\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"]
_WORDS = [
    *(
        "a",
        "word ",
        " ",
        "  \t",
        "[",
        "[[",
        "[[ ## ",
        " ## ]]",
        "[[ ## first ## ]]",
        "[[ ## other ## ]]",
        "]]",
    ),
    *("]]", '"', "\\", "}", "{", ",", ":", '"second": "no"', "<b>", "</", "&", "é", "😀", "\u00a0", "x" * 40),
]
_texts = st.lists(st.sampled_from(_WORDS + _ENDS), max_size=12).map("".join)
_cuts = st.one_of(st.just(1), st.just(3), st.integers(1, 50), st.just(10_000))


def _read(reader: Any, reply: str, cut: int) -> dict[str, str]:
    found: dict[str, str] = {}
    chunks = [reply[at : at + cut] for at in range(0, len(reply), cut)]
    for pieces in [*map(reader.feed, chunks), reader.end()]:
        for name, text in pieces:
            assert text, "an empty piece says nothing"
            found[name] = found.get(name, "") + text
    return found


def _parsed(adapter: Any, reply: str) -> dict[str, Any] | None:
    try:
        parsed: dict[str, Any] = adapter.parse(_SIGNATURE, reply)
    except Exception:
        return None
    return parsed


@given(first=_texts, second=_texts, before=_texts, cut=_cuts, ending=st.sampled_from(_ENDS))
@example(first="a", second="  \n\n b \x0b c ", before="", cut=1, ending="\r\n")
@example(first=" [[ ## count ## ]] 3", second="x", before="[[ ## fir", cut=3, ending="\n")
def test_texts_of_chat_are_those_that_dspy_parses(
    first: str, second: str, before: str, cut: int, ending: str
) -> None:
    """If this failed, a stream would show another text than the response has."""
    for gap in ("", " ", ending):
        reply = (
            f"{before}{ending}[[ ## first ## ]]{gap}{first}{ending}[[ ## count ## ]]{ending}5{ending}"
            f"[[ ## second ## ]]{gap}{second}{ending}[[ ## completed ## ]]{ending}"
        )
        parsed = _parsed(dspy.ChatAdapter(), reply)
        read = _read(ChatReader({"first", "second"}), reply, cut)
        if parsed is not None:
            assert read == {name: parsed[name] for name in ("first", "second") if parsed[name]}


@given(first=_texts, second=_texts, cut=_cuts, indent=st.sampled_from([None, 0, 3]), ascii_only=st.booleans())
def test_texts_of_json_are_those_that_dspy_parses(
    first: str, second: str, cut: int, indent: int | None, ascii_only: bool
) -> None:
    """If this failed, quotes and escapes would come out as text, or a field would run into the next."""
    value = {"first": first, "more": {"second": "inner", "list": [1, "]", {}]}, "count": 5, "second": second}
    reply = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    parsed = _parsed(dspy.JSONAdapter(), reply)
    assert parsed is not None
    for whole in (reply, f"```json\n{reply}\n```", f" \n{reply}  and so on"):
        read = _read(JSONReader({"first", "second"}), whole, cut)
        assert read == {name: parsed[name] for name in ("first", "second") if parsed[name]}


@given(first=_texts, second=_texts, cut=_cuts)
def test_texts_of_xml_are_those_that_dspy_parses(first: str, second: str, cut: int) -> None:
    """If this failed, entities would come out as they are written, or tags as text."""
    reply = f"<first>{escape(first)}</first>\n<count>5</count>\n<second>\n{escape(second)}\n</second>"
    parsed = _parsed(dspy.XMLAdapter(), reply)
    if parsed is not None:
        read = _read(XMLReader({"first", "second"}), reply, cut)
        assert read == {name: parsed[name] for name in ("first", "second") if parsed[name]}


@given(reply=st.one_of(_texts, st.text(max_size=60)), cut=_cuts)
def test_no_reply_breaks_a_reader(reply: str, cut: int) -> None:
    """If this failed, a model that answers nonsense would end its call with an error of ours."""
    for made in (ChatReader, JSONReader, XMLReader):
        _read(made({"first", "second"}), reply, cut)


_MAKERS: Sequence[tuple[Callable[..., Any], str]] = [
    (ChatReader, "[[ ## first ## ]]\n"),
    (JSONReader, '{"first": "'),
    (XMLReader, "<first>"),
]


@pytest.mark.parametrize(("made", "head"), _MAKERS)
def test_a_text_is_told_before_it_ends(made: Callable[..., Any], head: str) -> None:
    """If this failed, a stream would be no faster than waiting for the answer."""
    reader = made({"first"})
    reader.feed(head)
    assert reader.feed("Once") == [("first", "Once")]
    assert reader.feed(" upon") == [("first", " upon")]


@pytest.mark.parametrize(("made", "head"), _MAKERS)
@pytest.mark.parametrize("unit", ["abc", "   ", "[[ ", "\n\n\n"])
def test_long_replies_are_read_in_time(made: Callable[..., Any], head: str, unit: str) -> None:
    """If this failed, a long answer in small chunks would hold up a worker's loop ever longer."""
    reader = made({"first"})
    reader.feed(head)
    started = time.process_time()
    for _ in range(30_000):
        reader.feed(unit)
    assert time.process_time() - started < 20, "reading has to take the same time for each chunk"


def test_json_that_is_not_a_string_or_not_json_gives_no_pieces() -> None:
    """If this failed, a stream would tell what is not the answer."""
    wanted = {"first"}
    assert _read(JSONReader(wanted), '{"first": 5, "x": "y"}', 1) == {}
    assert _read(JSONReader(wanted), "The answer is: no JSON", 1) == {}
    assert _read(JSONReader(wanted), r'{"first": "a\ud83d b"}', 1) == {"first": "a"}
    assert _read(JSONReader(wanted), r'{"first": "\ud83d\ude00"}', 1) == {"first": "😀"}


def test_xml_declares_nothing() -> None:
    """If this failed, a reply could make a worker expand entities without end."""
    reply = '<!DOCTYPE x [<!ENTITY a "aaaa">]><first>&a;</first>'
    assert _read(XMLReader({"first"}), reply, 1) == {}
