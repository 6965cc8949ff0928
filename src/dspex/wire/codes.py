"""The extension codes of values, and what all who write or read them share.

A value is one MessagePack value. What MessagePack has no form for is an extension with a code of its own:

=======  ====================================================  =====================================
code     value                                                 payload, MessagePack but for scalars
=======  ====================================================  =====================================
1-9      integers beyond 64 bits, complex, dates and times,    see ``scalars``
         Decimal, UUID, ``msgspec.UNSET``
16-18    numpy arrays and scalars                              see ``arrays``
32-34    tuple, set, frozenset                                 the items
35       dict with a key that is not plain                     the keys, the values
36       member of an enum                                     class, name, value
37       dataclass, msgspec Struct, pydantic model             class, fields, what else a model holds
38       ``Unsendable``                                        the name of the type, and its text if asked for
39       a typed value of dspex's own (``dspex.Image``)        name, fields
=======  ====================================================  =====================================
"""

from __future__ import annotations

import contextvars

import msgspec

INT, COMPLEX, DATE, TIME, DATETIME, TIMEDELTA, DECIMAL, UUID, UNSET = range(1, 10)
ARRAY, NUMBER, TEXT = range(16, 19)
TUPLE, SET, FROZENSET, DICT, ENUM, RECORD, UNSENDABLE, OWN = range(32, 40)

#: Types that MessagePack carries as they are.
PLAIN = frozenset({type(None), bool, int, float, str, bytes})

#: How many containers may be inside one another.
MAX_DEPTH = 200

pack = msgspec.msgpack.Encoder().encode
unpack = msgspec.msgpack.Decoder().decode


class WireError(ValueError):
    """These bytes are not a value, or hold one that cannot be built here."""


class Refusal(Exception):
    """A part of a value cannot be sent.

    Attributes:
        reason: Why, and what to send instead.
        whole: Whether nothing can stand in for that part, because the nesting has no end in reach.
        steps: How to get to that part, the innermost step first.
        parts: The ``id`` of each value on that way, in the same order.
        is_endless: Whether it contains itself; known once its path is.
    """

    def __init__(self, reason: str, *, whole: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.whole = whole
        self.steps: list[str] = []
        self.parts: list[int] = []
        self.is_endless = False

    def path(self) -> str:
        """The way to that part; for a value that contains itself, to where it comes back to itself."""
        steps, parts = self.steps[::-1], self.parts[::-1]
        seen: set[int] = set()
        for index, part in enumerate(parts if self.whole else ()):
            if part in seen:
                self.reason = "it contains itself"
                self.is_endless = True
                steps = steps[: index + 1]
                break
            seen.add(part)
        return "".join(steps if len(steps) <= 24 else [*steps[:12], "…", *steps[-8:]])


def type_name(kind: type) -> str:
    """A type as people write it: ``socket.socket``, ``int``."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


class Unsendable(msgspec.Struct, frozen=True, omit_defaults=True, repr_omit_defaults=True):
    """Stands in a result where something was that cannot be sent.

    Attributes:
        type_name: Its type (``"socket.socket"``); what it held stays where it was.
        text: The first characters of its ``repr``, where ``Settings(show_unsendable=True)`` asks for them;
            else None. A ``repr`` is code of its class, and may say anything.
    """

    type_name: str
    text: str | None = None


class ResultOptions(msgspec.Struct, frozen=True):
    """How results are written in this context.

    Attributes:
        max_bytes: Bytes that one may take; None is no limit.
        show_unsendable: Whether an ``Unsendable`` has the ``repr`` of what it stands for.
    """

    max_bytes: int | None = None
    show_unsendable: bool = False


#: Set by whoever runs a call.
results: contextvars.ContextVar[ResultOptions] = contextvars.ContextVar(
    "results",
    default=ResultOptions(),  # noqa: B039 (it is frozen)
)
