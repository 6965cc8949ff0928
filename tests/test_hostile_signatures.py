"""Signatures from people who mean harm, or from nobody at all: refused, and nothing imported."""

from __future__ import annotations

import builtins
import importlib
import json
import sys
from typing import NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.errors import InvalidSignature
from dspex.program.signature import Signature, of, parse

HOSTILE = [
    "q: __import__('os') -> a",
    "q: __import__('os').system('id') -> a",
    "q: os -> a",
    "q: os.system -> a",
    "q: antigravity -> a",
    "q: this -> a",
    "q: dspy -> a",
    "q: dspy.__builtins__ -> a",
    "q: dspy.History.__init__ -> a",
    "q: dspy.Tool -> a",
    "q: dspy.LM -> a",
    "q: dspy.Image.from_path -> a",
    "q: dspy.Image['/etc/passwd'] -> a",
    "q: dspy.adapters.types.image.Image -> a",
    "q: dspex.worker.media -> a",
    "q: Code[os] -> a",
    "q: Code['a', 'b'] -> a",
    "q: Code['x); import os'] -> a",
    "q: Code['" + "x" * 99 + "'] -> a",
    "q: Code[['python']] -> a",
    "q: dict[Image, str] -> a",
    "q: set[Code['python']] -> a",
    "q: str.__class__ -> a",
    "q: str.__subclasses__ -> a",
    "q: str.__mro__[1] -> a",
    "q: typing.__builtins__ -> a",
    "q: typing.get_type_hints -> a",
    "q: typing.os -> a",
    "q: list[os] -> a",
    "q: list[antigravity.x] -> a",
    "q: dict[str, subprocess.Popen] -> a",
    "q: Optional[pty] -> a",
    "q: int | os -> a",
    "q: os[int] -> a",
    "q: str[os] -> a",
    "q: Literal[os] -> a",
    "q: Literal[os.environ] -> a",
    "q: Literal[f'{open(0)}'] -> a",
    "q: Literal[b'x'] -> a",
    "q: Literal[1.5] -> a",
    "q: Literal[1+1] -> a",
    "q: Literal[(1, 2)] -> a",
    "q: Literal[Literal[1]] -> a",
    "q: Literal['a' 'b'] -> a",
    "q: Literal['''a'''] -> a",
    "q: Literal['\\N{BULLET}'] -> a",
    "q: Literal['\\ud800'] -> a",
    "q: Literal['\ud800'] -> a",
    "q: Literal['\x00'] -> a",
    "q: Literal[" + "9" * 5000 + "] -> a",
    "q: 'os.system' -> a",
    "q: 'int' -> a",
    "q: f'{1}' -> a",
    "q: lambda: 1 -> a",
    "q: (int) -> a",
    "q: [int] -> a",
    "q: {int} -> a",
    "q: int if 1 else str -> a",
    "q: [x for x in y] -> a",
    "q: await x -> a",
    "q: (y := int) -> a",
    "q: Field(default=1) -> a",
    "q: Annotated[int, os] -> a",
    "q: ForwardRef('os') -> a",
    "q: Callable[[int], str] -> a",
    "q: type -> a",
    "q: object -> a",
    "q: bytes -> a",
    "q: complex -> a",
    "q: \uff53\uff54\uff52 -> a",  # full-width letters, which Python would read as `str`
    "q: \u0455tr -> a",  # a Cyrillic letter that looks like an s
    "\uff4c\uff4d -> a",  # full-width letters, which Python would read as `lm`
    "q: " + "list[" * 5000 + "int" + "]" * 5000 + " -> a",
    "q: " + "list[" * 9 + "int" + "]" * 9 + " -> a",
    "q: " + "(" * 3000 + " -> a",
    "q" * 1_000_000 + " -> a",
    "q): pass\nimport os\ndef g(a -> a",
    "q): pass #-> a",
    "q=__import__('os') -> a",
    "*q -> a",
    "**q -> a",
    "q, / -> a",
    "q -> a: int = 3",
    "q; import os -> a",
    "q -> a\nimport os",
    "q -> a # -> b",
    "q \\\n -> a",
    "q: str\x00 -> a",
    "\x00",
    "\ud800 -> a",
    "q -> \u202ea",
    "q: list[int, -> a",
    "q: tuple[()] -> a",
    "q: tuple[...] -> a",
    "q: tuple[int, ..., int] -> a",
    "q: list[...] -> a",
    "q: dict[list[int], str] -> a",
    "q: set[dict] -> a",
    "q: frozenset[set[int] | None] -> a",
    "q: list[dspy.History] -> a",
    "q: dspy.History | None -> a",
    "q -> a: History",
    "q: History, r: History -> a",
    "prediction: dict -> a",
    "prediction: int | Any -> a",
]


def forbidden(*args: object, **kwargs: object) -> NoReturn:
    raise AssertionError(f"an import was tried: {args[:1]}")


def refused_or_read(text: str) -> Signature | InvalidSignature:
    """What parse makes of a text in a process in which any import at all fails."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib, "import_module", forbidden)
        patch.setattr(builtins, "__import__", forbidden)
        try:
            outcome: Signature | InvalidSignature = parse(text)
        except InvalidSignature as refused:
            outcome = refused
    assert set(sys.modules) == before
    return outcome


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_refused_without_an_import(text: str) -> None:
    """If this failed, a signature from outside could import, run or smuggle something."""
    refused = refused_or_read(text)
    assert isinstance(refused, InvalidSignature)
    assert 0 <= refused.details["position"] <= len(text)
    json.dumps(refused.to_wire()).encode()
    assert len(refused.message) < 400


SIGNATURE_LIKE = st.text("q(a)[]{},:->|=.*'\"\\ \n_lstrin0x#é", max_size=60)
PIECES = st.sampled_from(
    [
        *(
            "q",
            "a",
            "int",
            "str",
            "list",
            "[",
            "]",
            ",",
            ":",
            "->",
            "|",
            ".",
            "...",
            "Literal",
            "'x'",
            "-1",
            "7",
        ),
        *("None", "Union", "Optional", "dict", "dspy", "History", "os", "(", ")", "=", "\\", "\ud800"),
    ]
)


@settings(max_examples=600, deadline=None)
@given(st.one_of(st.text(), SIGNATURE_LIKE, st.lists(PIECES, max_size=25).map(" ".join)))
def test_any_text_is_read_or_refused(text: str) -> None:
    """If this failed, some text would end in another error than InvalidSignature, or in an import."""
    outcome = refused_or_read(text)
    if isinstance(outcome, Signature):
        assert of(outcome) == parse(outcome.text) == outcome
    else:
        position = outcome.details["position"]
        assert 0 <= position <= len(text)
        assert outcome.message.endswith("^")
