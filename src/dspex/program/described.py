"""What is known of a program of the user's own, and how a caller's words become its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dspex.errors import InvalidInput, InvalidOption
from dspex.program.prompt import hinted, listed, mapping, place_of
from dspex.program.suggest import nearest

#: What a caller may say of such a program for one call.
OPTIONS = ("idempotent", "shared")


class Parameter(msgspec.Struct, frozen=True):
    """A parameter of ``forward`` or ``aforward``.

    Attributes:
        name: Its name.
        type: Its type in canonical spelling, where it is one that a signature could have; else None, and
            any value is taken.
        required: Whether it has no default.
    """

    name: str
    type: str | None = None
    required: bool = True


class Description(msgspec.Struct, frozen=True):
    """A program of the user's own, as a worker described it.

    Attributes:
        module: Its import path.
        inputs: Its parameters in order.
        takes_any: Whether it takes inputs by any other name as well (``**kwargs``).
        shared: Whether it may run in a worker that runs other calls as well.
        idempotent: Whether running it twice does no more than running it once.
        answer: What the command ``describe`` says of it.
    """

    module: str
    inputs: tuple[Parameter, ...]
    takes_any: bool
    shared: bool
    idempotent: bool
    answer: dict[str, Any]

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Description:
        """From what ``describe`` answered."""
        inputs = tuple(
            Parameter(name, said["type"], said["required"]) for name, said in answer["inputs"].items()
        )
        return cls(
            answer["module"], inputs, answer["takes_any"], answer["shared"], answer["idempotent"], answer
        )


class Traits(msgspec.Struct, frozen=True):
    """How one call of such a program is run.

    Attributes:
        shared: Whether it may run beside other calls.
        idempotent: Whether it may simply run again.
    """

    shared: bool
    idempotent: bool


def check_options(module: str, options: Mapping[str, Any] | None) -> dict[str, bool]:
    """What the caller says of the program for this call.

    Raises:
        InvalidOption: It says something else than ``shared`` and ``idempotent``, or not a boolean.
    """
    given = {} if options is None else options
    if not isinstance(given, Mapping):
        raise InvalidOption(f"options of {module} are a dict, not {type(given).__name__}")
    checked = {}
    for name in sorted(given, key=str):
        value = given[name]
        if name not in OPTIONS:
            shown = str(name)[:40]
            close = nearest(shown, OPTIONS)
            hint = f"did you mean {close!r}? It has" if close else "it has"
            raise InvalidOption(
                f"{module} has no option {shown!a}; {hint} {', '.join(OPTIONS)}",
                details={
                    "module": module,
                    "option": shown.encode("utf-8", "replace").decode(),
                    "known": list(OPTIONS),
                },
            )
        if value is None:
            continue
        if not isinstance(value, bool):
            raise InvalidOption(
                f"option {name!r} of {module} takes True or False, not {str(value)[:40]!a}",
                details={"module": module, "option": name, "expected": "True or False"},
            )
        checked[name] = value
    return checked


def refuse_signature(module: str, signature: object) -> None:
    """A program of the user's own has its fields in its code.

    Raises:
        InvalidOption: There is a signature.
    """
    if signature is not None:
        raise InvalidOption(
            f"{module} takes no signature: its inputs are the parameters of its forward, its outputs what "
            "that returns",
            details={"module": module, "option": "signature"},
        )


def fill(
    described: Description, prompt: str | Sequence[Any] | None, inputs: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The inputs that a call runs with: those given, and the prompt in the place that is missing.

    Raises:
        InvalidInput: An input is missing or unknown, or the prompt has no place or more than one.
    """
    given = dict(mapping(inputs))
    names = [parameter.name for parameter in described.inputs]
    unknown = [
        str(name).encode("utf-8", "replace").decode()
        for name in given
        if not isinstance(name, str) or (name not in names and not described.takes_any)
    ]
    if unknown:
        raise InvalidInput(
            f"unknown input {', '.join(hinted(name, names) for name in unknown[:5])}; {described.module} "
            f"has {listed(names) or 'none'}",
            details={"unknown": unknown, "known": names},
        )
    missing = [parameter for parameter in described.inputs if parameter.name not in given]
    required = [parameter.name for parameter in missing if parameter.required]
    if prompt is not None:
        if not isinstance(prompt, str):
            raise InvalidInput(
                f"the prompt of {described.module} is text: it has no history that DSPy would know of; give "
                "messages as one of its inputs"
                if isinstance(prompt, list | tuple)
                else f"a prompt is a text, not {type(prompt).__name__}"
            )
        given[place_of(names, required, [parameter.name for parameter in missing])] = prompt
    elif required:
        raise InvalidInput(
            f"missing input: {listed(required)}; give it in inputs={{{required[0]!r}: ...}}"
            + (" or as the prompt" if len(required) == 1 else ""),
            details={"missing": required},
        )
    return given
