"""The types a field may have: read from a whitelist, spelled in one way, and turned into Python's own.

DSPy looks an unknown type name up with ``importlib.import_module``, so a signature from outside could
import any module that is installed. Here a name is looked up in a table and nowhere else.
"""

from __future__ import annotations

import datetime as dt
import decimal
import re
import typing
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dspex.program.scan import Reader, Token, quote
from dspex.program.suggest import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The type of a conversation so far, in its canonical spelling.
HISTORY = "dspy.History"
#: Code, in its canonical spelling; in brackets it may have its language.
CODE = "dspy.Code"
#: How a model came to its answer.
REASONING = "dspy.Reasoning"
#: What `Type.resolved` is given to make a type for a language of.
CODE_IN = "dspy.Code[...]"
#: Brackets inside brackets, at most.
MAX_NESTING = 8
#: Digits of a number in ``Literal``: what every JSON reader and MessagePack can hold.
_MAX_DIGITS = 18

# `bytes` is not here: DSPy shows them to the model as the text of a Python literal, and an answer of
# digits alone ("123") does not come back as bytes. Neither is `complex`, which has no JSON schema.
_PLAIN: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "Any": Any,
    "None": type(None),
    "datetime.date": dt.date,
    "datetime.datetime": dt.datetime,
    "datetime.time": dt.time,
    "datetime.timedelta": dt.timedelta,
    "decimal.Decimal": decimal.Decimal,
    "uuid.UUID": uuid.UUID,
}
# DSPy's own, spelled as there. A tool is none of them: tools are given by `tools=`.
_DSPY = (
    HISTORY,
    CODE,
    "dspy.Audio",
    "dspy.File",
    "dspy.Image",
    REASONING,
    "dspy.ToolCalls",
    "dspy.experimental.Citations",
    "dspy.experimental.Document",
)
_FORMS: dict[str, Any] = {
    "list": list,
    "dict": dict,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    # Not `int | None` at run time: DSPy's own parser makes these, and so prompts come out the same.
    "Union": typing.Union,
    "Literal": typing.Literal,
}
_BUILT_IN = ("list", "dict", "tuple", "set", "frozenset")
_ALIASES = {
    "NoneType": "None",
    **{name.rpartition(".")[2]: name for name in _PLAIN},
    **{
        f"{prefix}{alias}": alias.lower()
        for prefix in ("", "typing.")
        for alias in ("List", "Dict", "Tuple", "Set")
    },
    **{f"{prefix}FrozenSet": "frozenset" for prefix in ("", "typing.")},
    **{f"typing.{name}": name for name in ("Any", "Optional", "Union", "Literal")},
    "Optional": "Optional",
    # Plainly, and as dspex has them.
    **{f"{prefix}{name.rpartition('.')[2]}": name for prefix in ("", "dspex.") for name in _DSPY},
    **{f"dspy.{name.rpartition('.')[2]}": name for name in _DSPY},
}
#: Every spelling that is allowed, and the canonical name it stands for.
_NAMES = {**{name: name for name in (*_PLAIN, *_FORMS, *_DSPY)}, **_ALIASES}
_SHORT = (
    "str, int, float, bool, list[…], dict[…], tuple[…], set[…], Literal[…], X | Y, None, Any, date, Image, …"
)
_TAKES = {
    "list": (1, "list[str]"),
    "set": (1, "set[str]"),
    "frozenset": (1, "frozenset[str]"),
    "dict": (2, "dict[str, int]"),
    "Optional": (1, "Optional[int]"),
    "Union": (0, "Union[int, str]"),
    "Literal": (0, "Literal['a', 'b']"),
    CODE: (1, "Code['python']"),
}
# What a language may be called: DSPy makes the name of a class of it.
_LANGUAGE = re.compile(r"[A-Za-z][A-Za-z0-9+#._-]{0,30}")
_CONSTANTS = {"True": True, "False": False, "None": None}


@dataclass(frozen=True, slots=True)
class Type:
    """One allowed type.

    Attributes:
        name: Its canonical name (``"list"``, ``"Union"``, ``"datetime.date"``).
        args: What stands in its brackets: types, of a tuple also a last ``...``, of ``Literal`` values, of
            ``dspy.Code`` a language.
    """

    name: str
    args: tuple[Any, ...] = ()

    def spelled(self) -> str:
        """This type in its canonical spelling; equal types are spelled alike."""
        if not self.args:
            return self.name
        if self.name in ("Literal", CODE):
            return f"{self.name}[{', '.join(_spelled_value(value) for value in self.args)}]"
        args = ["..." if arg is ... else arg.spelled() for arg in self.args]
        return " | ".join(args) if self.name == "Union" else f"{self.name}[{', '.join(args)}]"

    def members(self) -> tuple[Type, ...]:
        """The types of which a value has one: those of a union, else this one alone."""
        return self.args if self.name == "Union" else (self,)

    def admits_none(self) -> bool:
        """Whether the type itself says that a value may be missing, in DSPy's sense."""
        return any(member.name == "None" for member in self.members())

    def mentions(self, name: str) -> bool:
        """Whether a type of that canonical name stands anywhere inside."""
        return self.name == name or any(isinstance(arg, Type) and arg.mentions(name) for arg in self.args)

    def resolved(self, extra: Mapping[str, Any]) -> Any:
        """The Python object for this type.

        Args:
            extra: Those that are not Python's own by their names, and by `CODE_IN` what makes a type of the
                name of a language.
        """
        if self.name in _PLAIN:
            return _PLAIN[self.name]
        if self.name in _DSPY and self.args:
            return extra[CODE_IN](self.args[0])
        if self.name not in _FORMS:
            return extra[self.name]
        form = _FORMS[self.name]
        if not self.args:
            return form
        if self.name == "Literal":
            return form[self.args]
        return form[tuple(arg if arg is ... else arg.resolved(extra) for arg in self.args)]


def read(reader: Reader, depth: int = 0) -> Type:
    """The type that comes next in a text.

    Args:
        reader: The text; it is left at the first token after the type.
        depth: How many brackets it already stands in.

    Raises:
        InvalidSignature: There is no type there, or none that is allowed.
    """
    members = [_single(reader, depth)]
    while reader.take_if("|"):
        members.append(_single(reader, depth))
    return _union(members)


def _single(reader: Reader, depth: int) -> Type:
    first = reader.token
    if first.kind != "name":
        raise reader.fail(f"a type is expected here: {_SHORT}")
    written = reader.take().value
    while reader.take_if("."):
        if reader.token.kind != "name":
            raise reader.fail("a name is expected after '.'")
        written += "." + reader.take().value
    name = _NAMES.get(written) or (written if written in reader.names else None)
    if name is None:
        shown = written if len(written) <= 40 else written[:40] + "..."
        # Less alike than elsewhere: other languages' `string`, `integer`, `boolean` are to be recognized.
        close = nearest(written, _NAMES, likeness=0.6)
        hint = f"did you mean {close!r}?" if close else f"allowed are {_SHORT}"
        raise reader.fail(f"unknown type {shown!a}; {hint}", first.position)
    bracket = reader.token
    if not reader.take_if("["):
        if name in ("Optional", "Union", "Literal"):
            raise reader.fail(f"{name} needs brackets: {_TAKES[name][1]}", first.position)
        return Type(name)
    if name not in _TAKES and name != "tuple":
        raise reader.fail(f"{name} takes nothing in brackets", bracket.position)
    if depth >= MAX_NESTING:
        raise reader.fail(f"types nest at most {MAX_NESTING} deep", bracket.position)
    args = _arguments(reader, name, depth + 1)
    return _made(reader, name, args, first)


def _arguments(reader: Reader, name: str, depth: int) -> list[Any]:
    args: list[Any] = []
    while True:
        if name == "tuple" and len(args) == 1 and reader.take_if("..."):
            args.append(...)
        else:
            args.append(_argument(reader, name, depth))
        if reader.take_if("]"):
            return args
        ended = args[-1] is ... and name == "tuple"
        if ended or not reader.take_if(","):
            raise reader.fail("']' is expected here" if ended else "',' or ']' is expected here")


def _argument(reader: Reader, name: str, depth: int) -> Any:
    if name == "Literal":
        return _value(reader)
    if name != CODE:
        return read(reader, depth)
    if reader.token.kind != "text" or not _LANGUAGE.fullmatch(reader.token.value):
        raise reader.fail("the name of a language is expected here, in quotes: Code['python']")
    return reader.take().value


def _made(reader: Reader, name: str, args: list[Any], first: Token) -> Type:
    count, example = _TAKES.get(name, (0, ""))
    if count and len(args) != count:
        raise reader.fail(f"{name} takes {count} in its brackets, not {len(args)}: {example}", first.position)
    if name == "Optional":
        return _union([args[0], Type("None")])
    if name == "Union":
        return _union(args)
    if name == "Literal":
        # By type and value: True is not 1 here.
        return Type(name, tuple({(type(value), value): value for value in args}.values()))
    if name in ("dict", "set", "frozenset") and not _hashable(args[0]):
        what = "a key of a dict" if name == "dict" else f"a member of a {name}"
        raise reader.fail(f"{what} cannot be a list, dict, set or a type of DSPy's", first.position)
    return Type(name, tuple(args))


def _union(members: list[Type]) -> Type:
    flat = [inner for member in members for inner in member.members()]
    unique = {member.spelled(): member for member in flat}
    # None goes last, so that `Optional[int]`, `int | None` and `None | int` are one type.
    none = unique.pop("None", None)
    ordered = [*unique.values(), *([none] if none else [])]
    return ordered[0] if len(ordered) == 1 else Type("Union", tuple(ordered))


def _value(reader: Reader) -> str | int | bool | None:
    token = reader.token
    if token.kind == "text":
        return reader.take().value
    if token.kind == "name" and token.value in _CONSTANTS:
        return _CONSTANTS[reader.take().value]
    if token.kind == "number":
        digits = token.value.lstrip("-")
        if len(digits) > _MAX_DIGITS or (len(digits) > 1 and digits[0] == "0"):
            raise reader.fail(f"a number in Literal has up to {_MAX_DIGITS} digits and no leading zero")
        return int(reader.take().value)
    raise reader.fail("Literal takes quoted text, whole numbers, True, False and None")


def _spelled_value(value: str | int | bool | None) -> str:
    return quote(value) if isinstance(value, str) else repr(value)


def canonical(written: str) -> str | None:
    """The canonical name of a type of the whitelist; None when it has none of that name."""
    return _NAMES.get(written)


def _hashable(type_: Any) -> bool:
    if not isinstance(type_, Type):
        return True
    if type_.name in ("list", "dict", "set", *_DSPY):
        return False
    return type_.name == "Literal" or all(_hashable(arg) for arg in type_.args)
