"""Signatures: the fields that go in and come out, read strictly from DSPy's string form.

``"question, context: list[str] -> answer: Literal['yes', 'no']"``. DSPy's own parser imports modules
that a type names, and finds out late, or never, that a field's name means something else to it; this
one refuses both, at the place. It runs in the caller and, as the worker builds from its result, is
the only one that ever sees the text.
"""

from __future__ import annotations

import functools
import keyword
import unicodedata
from typing import TYPE_CHECKING, Any

import msgspec

from dspex.errors import InvalidSignature
from dspex.program.fieldtypes import HISTORY, Type, read
from dspex.program.scan import Reader, refusal
from dspex.program.shapes import Shape
from dspex.program.shapes import check as check_shapes

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Fields in all, a history aside.
MAX_FIELDS = 64
#: Characters of the text.
MAX_CHARACTERS = 10_000
#: Characters of the instructions, and of each description.
MAX_WORDS = 1_000_000
# The canonical spelling of a type is at most this many times longer than the shortest one that is allowed
# (`date` is `datetime.date`), and whatever `parse` has accepted has to pass again as a Signature.
_LONGER = 4

# Names that a dspy.Signature or dspy.Predict of DSPy 3.4 takes for something else, so that building or
# calling fails, or a value is lost without a word. A test tries them all, and many others, on DSPy itself.
_RESERVED = frozenset(
    {
        # properties of the signature class, which pydantic then asks for their values
        "fields",
        "input_fields",
        "instructions",
        "output_fields",
        "signature",
        # pydantic's own, which it protects
        "model_config",
        "model_dump",
        "model_dump_json",
        "model_validate",
        "model_validate_json",
        "model_validate_strings",
        # the first parameter of `Predict.__call__` and of `Prediction`
        "self",
    }
)
#: Names that no input may have.
RESERVED_INPUTS = _RESERVED | {
    # keyword arguments that Predict keeps for itself
    "config",
    "demos",
    "lm",
    "new_signature",
    # parameters of the functions that the inputs pass through
    "completions",
    "instance",
}
#: Names that no output may have.
RESERVED_OUTPUTS = _RESERVED | {
    # the first parameter of `Example`: a completion asked for by its index loses the field
    "base",
}
#: Predict takes an input of this name for an option of the LM when its value is a certain dict.
_NO_DICT = "prediction"


class Field(msgspec.Struct, frozen=True, array_like=True):
    """One field of a signature.

    Attributes:
        name: Its name, as inputs and outputs are keyed.
        type: Its type in canonical spelling (``"list[str]"``, ``"int | None"``).
        description: What the model is told about it; None tells it only the name.
        typed: Whether somebody wrote the type. An input without one is described as ``str`` and takes any
            value, as in DSPy.
        default: What it is when it is missing, as JSON text; None when it may not be missing.
        constraints: What the model is told of the values that are allowed (``"less than: 5"``).
        prefix: What older prompts of DSPy put before it; it goes into saved state.
        fresh: Whether its default is made anew each time, and not told to the model.
    """

    name: str
    type: str = "str"
    description: str | None = None
    typed: bool = True
    default: str | None = None
    constraints: str | None = None
    prefix: str | None = None
    fresh: bool = False

    @property
    def text(self) -> str:
        """The field as a signature's string form has it."""
        return f"{self.name}: {self.type}" if self.typed else self.name


class Signature(msgspec.Struct, frozen=True, array_like=True):
    """What a program is given and what it has to answer.

    Attributes:
        inputs: The fields that go in, in order.
        outputs: The fields that come out, in order.
        instructions: The task in words; None leaves DSPy's default, which only names the fields.
        shapes: The types that are not Python's own, and that the types of the fields name.
        path: The import path of the class that a worker takes it from; None when it is made from the fields.
    """

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    instructions: str | None = None
    shapes: tuple[Shape, ...] = ()
    path: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The types that its fields may name beside those of the whitelist."""
        return tuple(shape.key for shape in self.shapes if shape.key)

    @property
    def text(self) -> str:
        """The string form in canonical spelling, without descriptions and instructions."""
        inputs, outputs = (", ".join(field.text for field in side) for side in (self.inputs, self.outputs))
        return f"{inputs} -> {outputs}"

    def with_instructions(self, instructions: str | None) -> Signature:
        """The same fields with other instructions; None or blank text is DSPy's default."""
        text = instructions if instructions and instructions.strip() else None
        return msgspec.structs.replace(self, instructions=text)


def default_instructions(signature: Signature) -> str:
    """What DSPy would say of this signature by itself, word for word."""
    inputs, outputs = (
        ", ".join(f"`{field.name}`" for field in side) for side in (signature.inputs, signature.outputs)
    )
    return f"Given the fields {inputs}, produce the fields {outputs}."


def parse(text: str) -> Signature:
    """Read a signature in DSPy's string form.

    A field without a type is ``str``. Types are those of `dspex.program.fieldtypes`, and are kept in one
    canonical spelling each. Results are remembered.

    Raises:
        InvalidSignature: The text is malformed, a name cannot be used, or a type is not allowed;
            ``details["position"]`` is the place in characters, ``details["signature"]`` the text.
    """
    if not isinstance(text, str):
        raise InvalidSignature(f"a signature is text such as 'question -> answer', not {type(text).__name__}")
    return _parse(text, MAX_CHARACTERS)


def of(signature: str | Signature) -> Signature:
    """A checked signature from text, or from one that somebody made by hand.

    Raises:
        InvalidSignature: As for `parse`; positions are in ``signature.text`` when it was not text.
    """
    if not isinstance(signature, Signature):
        return parse(signature)
    fields = (*signature.inputs, *signature.outputs)
    texts = [(field.name, field.type) for field in fields]
    told = [(field.description, field.default, field.constraints, field.prefix) for field in fields]
    words = [text for text in (signature.instructions, *sum(told, ())) if text is not None]
    if not all(isinstance(text, str) for text in (*sum(texts, ()), *words)):
        raise InvalidSignature("names, types, descriptions and instructions of a signature are text")
    check_shapes(signature.shapes)
    written = signature.text
    checked = _parse(written, _LONGER * MAX_CHARACTERS, signature.names)
    if [field.name for field in (*checked.inputs, *checked.outputs)] != [field.name for field in fields]:
        # Text of one field that reads as two (`Field("a, b")`) would smuggle a field in.
        raise refusal(written, 0, "a field's name or type has more in it than a name or a type")
    for text in words:
        _encodable(text)
        if len(text) > MAX_WORDS:
            raise InvalidSignature(
                f"a text of {len(text):,} characters is too long for a signature, which has at most "
                f"{MAX_WORDS:,} in its instructions and in each description; give long texts as inputs"
            )

    def described(side: tuple[Field, ...], original: tuple[Field, ...]) -> tuple[Field, ...]:
        return tuple(
            msgspec.structs.replace(given, type=field.type, typed=field.typed)
            for field, given in zip(side, original, strict=True)
        )

    inputs, outputs = (
        described(checked.inputs, signature.inputs),
        described(checked.outputs, signature.outputs),
    )
    made = msgspec.structs.replace(signature, inputs=inputs, outputs=outputs)
    return made.with_instructions(signature.instructions)


def resolve(type: str, extra: Mapping[str, Any] | None = None) -> Any:  # noqa: A002 — the field is named so
    """The Python type object for a field's type.

    Args:
        type: A type in canonical spelling, or any other that `parse` takes.
        extra: The objects for the types that are not Python's own: ``{"dspy.History": dspy.History}``.

    Raises:
        InvalidSignature: The type is not allowed, or `extra` lacks what it needs.
    """
    node = type_of(type, tuple(extra or ()))
    try:
        return node.resolved(extra or {})
    except KeyError as missing:
        raise InvalidSignature(f"{missing.args[0]} is not known here; pass it in `extra`") from None


@functools.lru_cache(1024)
def type_of(text: str, names: tuple[str, ...] = ()) -> Type:
    """The type that a text spells, as a tree.

    Args:
        text: The text.
        names: Types that it may name beside those of the whitelist.

    Raises:
        InvalidSignature: It is not a type, or not one that is allowed.
    """
    if len(text) > _LONGER * MAX_CHARACTERS:
        raise refusal(text[:MAX_CHARACTERS], MAX_CHARACTERS, "the type is too long")
    reader = Reader(text, names)
    node = read(reader)
    if reader.token.kind != "end":
        raise reader.fail("the type should end here")
    return node


@functools.lru_cache(1024)
def _parse(text: str, longest: int, names: tuple[str, ...] = ()) -> Signature:
    if len(text) > longest:
        raise refusal(text[:longest], longest, f"a signature has at most {longest} characters")
    reader = Reader(text, names)
    seen: dict[str, str] = {}
    inputs = _side(reader, "input", seen)
    if not reader.take_if("->"):
        ended = reader.token.kind == "end"
        raise reader.fail("'->' and an output are missing here" if ended else "',' or '->' is expected here")
    outputs = _side(reader, "output", seen)
    if reader.token.kind == "->":
        raise reader.fail("a second '->'; a signature has exactly one")
    if reader.token.kind != "end":
        raise reader.fail("',' or the end is expected here")
    if sum(field.type == HISTORY for field in inputs) > 1:
        raise refusal(text, 0, f"a signature has at most one {HISTORY}; DSPy would use only the first")
    return Signature(inputs, outputs)


def _side(reader: Reader, side: str, seen: dict[str, str]) -> tuple[Field, ...]:
    fields: list[Field] = []
    while not fields or reader.take_if(","):
        token = reader.token
        if token.kind != "name":
            raise reader.fail(f"the name of an {side} field is expected here")
        reader.take()
        fault = fault_of_name(token.value, side, seen)
        if fault:
            raise reader.fail(fault, token.position)
        place = reader.token.position
        kind, typed = Type("str"), reader.take_if(":")
        if typed:
            place = reader.token.position
            kind = read(reader)
        fault = fault_of_type(token.value, kind, side)
        if fault:
            raise reader.fail(fault, place)
        seen[token.value] = kind.name
        if sum(name != HISTORY for name in seen.values()) > MAX_FIELDS:
            raise reader.fail(f"a signature has at most {MAX_FIELDS} fields", token.position)
        fields.append(Field(token.value, kind.spelled(), typed=bool(typed) or side == "output"))
    return tuple(fields)


def fault_of_name(name: str, side: str, seen: Mapping[str, str]) -> str | None:
    """Why a field of this side (``"input"``, ``"output"``) cannot have that name; None if it can."""
    if name in seen:
        return f"a second field {name!r}; each name of a signature is used once"
    if name.startswith("_"):
        return f"the name {name!r} begins with an underscore; choose another"
    if keyword.iskeyword(name):
        return f"{name!r} is a keyword of Python and cannot name a field"
    # Python reads a name in its normal form: two that differ here would be one there.
    if not (name.isidentifier() and unicodedata.is_normalized("NFKC", name)):
        return f"{name!a} cannot name a field; use letters, digits and underscores"
    if name in (RESERVED_INPUTS if side == "input" else RESERVED_OUTPUTS):
        return f"{name!r} cannot name an {side}, as DSPy uses it for itself; try {name + '_text'!r}"
    return None


def fault_of_type(name: str, kind: Type, side: str) -> str | None:
    """Why a field of this side cannot have that type; None if it can."""
    if kind.mentions(HISTORY) and (side == "output" or kind.name != HISTORY):
        return f"{HISTORY} is the whole type of an input, never part of another type or an output"
    if (
        name == _NO_DICT
        and side == "input"
        and any(member.name in ("dict", "Any") for member in kind.members())
    ):
        return (
            f"an input {name!r} cannot be a dict, which DSPy may take for an option; try {name + '_value'!r}"
        )
    return None


def _encodable(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise refusal(text, error.start, "a lone surrogate is not part of any text") from None
