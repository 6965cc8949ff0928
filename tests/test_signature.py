"""Signatures in their string form: what is read, what is refused, and where."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.errors import InvalidSignature
from dspex.program.fieldtypes import MAX_NESTING
from dspex.program.signature import MAX_CHARACTERS, MAX_FIELDS, Field, Signature, of, parse, resolve

if TYPE_CHECKING:
    from collections.abc import Callable

SPELLINGS = {
    "str": "str",
    "Any": "Any",
    "typing.Any": "Any",
    "None": "None",
    "NoneType": "None",
    "list": "list",
    "List": "list",
    "List[str]": "list[str]",
    "typing.List[str]": "list[str]",
    "typing.Dict[str,int]": "dict[str, int]",
    "Tuple[int,...]": "tuple[int, ...]",
    "typing.FrozenSet[ int ]": "frozenset[int]",
    "Set": "set",
    "Optional[int]": "int | None",
    "typing.Optional[int]": "int | None",
    "int|None": "int | None",
    "None | int": "int | None",
    "Union[int, None]": "int | None",
    "Union[None, int, int]": "int | None",
    "Union[int]": "int",
    "Optional[Optional[int] | str]": "int | str | None",
    "Union[str, Union[int, Optional[bool]]]": "str | int | bool | None",
    "list[ int|None ]": "list[int | None]",
    'Literal["a", "b"]': "Literal['a', 'b']",
    "Literal['a','a', 'b']": "Literal['a', 'b']",
    "typing.Literal[1, True, -0, 0]": "Literal[1, True, 0]",
    "Literal[None, False, -7]": "Literal[None, False, -7]",
    'Literal["it\'s"]': 'Literal["it\'s"]',
    "Literal['it\\'s \"so\"']": "Literal['it\\'s \"so\"']",
    "Literal['a\\x41\\u00e9\\n\\\\']": "Literal['aAé\\n\\\\']",
    "Literal['\\x07']": "Literal['\\x07']",
    "Literal['a -> b, c: d']": "Literal['a -> b, c: d']",
    "date": "datetime.date",
    "datetime": "datetime.datetime",
    "datetime.datetime": "datetime.datetime",
    "time | timedelta": "datetime.time | datetime.timedelta",
    "Decimal": "decimal.Decimal",
    "UUID": "uuid.UUID",
    "History": "dspy.History",
    "dspy.History": "dspy.History",
}

PLACES = {
    "": (0, "the name of an input field"),
    "   ": (3, "the name of an input field"),
    "q": (1, "'->' and an output are missing"),
    "q: int": (6, "'->' and an output are missing"),
    "q ->": (4, "the name of an output field"),
    "-> a": (0, "the name of an input field"),
    "q -> a -> b": (7, "a second '->'"),
    "q, -> a": (3, "the name of an input field"),
    "q -> a,": (7, "the name of an output field"),
    "q -> a b": (7, "',' or the end"),
    "q r -> a": (2, "',' or '->'"),
    "question: strng -> answer": (10, "did you mean 'str'?"),
    "q -> n: integer": (8, "did you mean 'int'?"),
    "q -> n: string": (8, "did you mean 'str'?"),
    "q -> n: boolean": (8, "did you mean 'bool'?"),
    "q,\n  r: list[Foo]\n-> a": (13, "unknown type 'Foo'"),
    "q, r, q -> a": (6, "a second field 'q'"),
    "q -> a, q": (8, "a second field 'q'"),
    "_q -> a": (0, "underscore"),
    "q -> class": (5, "keyword"),
    "q, lm -> a": (3, "'lm_text'"),
    "q -> base": (5, "cannot name an output"),
    "q: int = 3 -> a": (7, "no default value"),
    "q: list(int) -> a": (7, "parentheses"),
    "q: Literal['x] -> a": (11, "closing quote"),
    "q: dict[str] -> a": (3, "dict takes 2"),
    "q: list[int, str] -> a": (3, "list takes 1"),
    "q: int[str] -> a": (6, "int takes nothing"),
    "q: Union -> a": (3, "needs brackets"),
    "q: Literal['\\d'] -> a": (12, "unknown escape"),
    "prediction: dict[str, int] -> a": (12, "cannot be a dict"),
    "q: " + "list[" * 9 + "int" + "]" * 9 + " -> a": (3 + 8 * 5 + 4, "8 deep"),
    "q: " + "x" * 20_000: (MAX_CHARACTERS, "at most 10000 characters"),
}


def refusal_of(text: Any, read: Callable[[Any], object] = parse) -> InvalidSignature:
    with pytest.raises(InvalidSignature) as caught:
        read(text)
    return caught.value


def test_reads_names_types_and_order() -> None:
    """If this failed, the plainest signature of the front page would not be what its author wrote."""
    assert parse("question, context: list[str] -> answer: Literal['a','b'], score: float") == Signature(
        (Field("question", typed=False), Field("context", "list[str]")),
        (Field("answer", "Literal['a', 'b']"), Field("score", "float")),
    )


def test_reads_several_lines() -> None:
    """If this failed, a signature in a triple-quoted text would be refused."""
    assert parse("\n  q,\n\tr : int\n->\n  a\n").text == "q, r: int -> a: str"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
def test_literal_text_survives_its_spelling(value: str) -> None:
    """If this failed, a choice the caller wrote would reach the model with other characters."""
    node = resolve(Field("a", "Literal[" + quoted(value) + "]").type)
    assert node.__args__ == (value,)


def quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return "'" + "".join(f"\\u{ord(c):04x}" if unicodedata.category(c) == "Cc" else c for c in escaped) + "'"


@pytest.mark.parametrize(("written", "canonical"), SPELLINGS.items())
def test_types_have_one_spelling(written: str, canonical: str) -> None:
    """If this failed, equal signatures would be built twice, or unequal ones taken for one another."""
    assert parse(f"q: {written} -> a").inputs[0].type == canonical
    assert parse(f"q: {canonical} -> a").inputs[0].type == canonical


@pytest.mark.parametrize(("text", "place"), PLACES.items())
def test_the_refusal_points_at_the_place(text: str, place: tuple[int, str]) -> None:
    """If this failed, the caret would point elsewhere than at the fault, or the reason would not say it."""
    position, reason = place
    refused = refusal_of(text)
    assert refused.details["position"] == position
    assert refused.details["signature"] == text[:MAX_CHARACTERS]
    said, line, caret = refused.message.split("\n")
    assert reason in said
    assert caret.endswith("^")
    column = len(caret) - 1
    pointed = line[column : column + 1]
    assert pointed == text[:MAX_CHARACTERS][position : position + 1].strip("\n")


def test_limits_are_where_they_say() -> None:
    """If this failed, a signature at a limit would be refused, or one past it let through."""
    names = [f"f{number}" for number in range(MAX_FIELDS)]
    accepted = parse(f"{', '.join(names)}, h: History -> a".replace("f0, ", ""))
    assert len(accepted.inputs) == MAX_FIELDS
    assert "at most 64 fields" in refusal_of(f"{', '.join(names)} -> a").message
    nested = "list[" * MAX_NESTING + "int" + "]" * MAX_NESTING
    assert parse(f"q: {nested} -> a").inputs[0].type == nested
    longest = "q" * (MAX_CHARACTERS - 5) + " -> a"
    assert of(parse(longest)) == parse(longest)
    assert refusal_of(longest + "b").details["position"] == MAX_CHARACTERS


def test_what_was_parsed_passes_again_whatever_its_length() -> None:
    """If this failed, a signature near the limit of length would be refused with its types written out."""
    choices = ", ".join("date" for _ in range(1600))
    accepted = parse(f"q: tuple[{choices}] -> a")
    assert len(accepted.text) > MAX_CHARACTERS
    assert of(accepted) == accepted
    assert resolve(accepted.inputs[0].type).__args__


@pytest.mark.parametrize("value", [None, 3, b"q -> a", ["q", "a"], {"q": "a"}])
def test_only_text_is_parsed(value: object) -> None:
    """If this failed, a wrong argument would surface as a TypeError from within."""
    assert type(value).__name__ in refusal_of(value).message
    assert type(value).__name__ in refusal_of(value, of).message


def test_parse_remembers() -> None:
    """If this failed, every call would pay for reading its signature again."""
    assert parse("remembered -> a") is parse("remembered -> a")


def test_names_may_be_in_any_script() -> None:
    """If this failed, a Japanese signature that DSPy takes would be refused; a decomposed accent must be."""
    assert parse("質問, größe -> 回答").outputs == (Field("回答"),)
    for name in ("cafe\u0301", "a\u00b7b", "\ufb01eld", "x\u00b2"):
        refusal_of(f"{name} -> a")


def test_of_checks_a_signature_made_by_hand() -> None:
    """If this failed, a Signature object would be a way around everything that its text form refuses."""
    made = Signature((Field("q", "Optional[int]", "how many"),), (Field("a"),), "Count.")
    assert of(made) == Signature((Field("q", "int | None", "how many"),), (Field("a"),), "Count.")
    assert of("q -> a") == parse("q -> a")
    for bad in (
        Signature((), (Field("a"),)),
        Signature((Field("q"),), ()),
        Signature((Field("q", "os.system"),), (Field("a"),)),
        Signature((Field("lm"),), (Field("a"),)),
        Signature((Field("q"), Field("q")), (Field("a"),)),
        Signature((Field("q, r"),), (Field("a"),)),
        Signature((Field("q", "int, r: str"),), (Field("a"),)),
        Signature((Field("q", "int -> b"),), (Field("a"),)),
        Signature((Field("q", 3),), (Field("a"),)),  # type: ignore[arg-type]
        Signature((Field("q"),), (Field("a"),), "\ud800"),
        Signature((Field("q", "str", "\ud800"),), (Field("a"),)),
    ):
        refusal_of(bad, of)


def test_instructions_are_kept_and_blank_ones_dropped() -> None:
    """If this failed, instructions would be lost, or an empty text would erase DSPy's own."""
    signature = parse("q -> a")
    assert signature.with_instructions("Be brief.").instructions == "Be brief."
    assert signature.instructions is None
    assert signature.with_instructions("Be brief.").with_instructions(" \n").instructions is None


def test_a_signature_travels_as_arrays() -> None:
    """If this failed, a worker would not read the signature that the caller sent."""
    signature = parse("q: int | None -> a").with_instructions("x")
    encoded = msgspec.msgpack.encode(signature)
    assert msgspec.msgpack.decode(encoded) == [
        [["q", "int | None", None, True, None, None, None, False]],
        [["a", "str", None, True, None, None, None, False]],
        "x",
        [],
        None,
    ]
    assert msgspec.msgpack.decode(encoded, type=Signature) == signature


@pytest.mark.parametrize("text", ["os.system", "int, str", "int -> a", "", "int]", "x" * 100_000])
def test_resolve_knows_nothing_but_the_whitelist(text: str) -> None:
    """If this failed, a type's text could turn into something else than an allowed type in the worker."""
    refusal_of(text, resolve)


def test_resolve_takes_history_from_the_worker_only() -> None:
    """If this failed, the worker could not put DSPy's class in, or something else could get in with it."""
    assert resolve("dspy.History", {"dspy.History": dict}) is dict
    assert "extra" in refusal_of("dspy.History", resolve).message
    with pytest.raises(InvalidSignature):
        resolve("os", {"other": int})
    assert resolve("str", {"str": int}) is str


def test_an_input_without_a_type_is_not_one_of_type_str() -> None:
    """If this failed, an untyped input would refuse the lists that users of DSPy give it."""
    untyped, typed = parse("context -> answer"), parse("context: str -> answer: str")
    assert not untyped.inputs[0].typed
    assert typed.inputs[0].typed
    assert untyped.outputs == typed.outputs
    assert of(untyped) == untyped
    assert untyped.text == "context -> answer: str"
