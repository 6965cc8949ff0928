"""What is known of a program of the user's own, and how a caller's words become its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dspex.errors import InvalidInput, InvalidOption, PayloadTooLarge
from dspex.program.prompt import hinted, listed, mapping, place_of
from dspex.program.saved import LONGEST, Saved
from dspex.program.spec import ProgramSpec
from dspex.program.suggest import nearest
from dspex.wire.values import encode

#: What a caller may say of such a program.
OPTIONS = ("arguments", "idempotent", "shared", "state")
_FLAGS = ("idempotent", "shared")


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
        arguments: Parameters of its constructor.
        takes_any_argument: Whether that takes any other as well.
    """

    module: str
    inputs: tuple[Parameter, ...]
    takes_any: bool
    shared: bool
    idempotent: bool
    answer: dict[str, Any]
    arguments: tuple[Parameter, ...] = ()
    takes_any_argument: bool = False

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Description:
        """From what ``describe`` answered."""

        def parameters(of: str) -> tuple[Parameter, ...]:
            return tuple(Parameter(name, said["type"], said["required"]) for name, said in answer[of].items())

        return cls(
            answer["module"],
            parameters("inputs"),
            answer["takes_any"],
            answer["shared"],
            answer["idempotent"],
            answer,
            parameters("arguments"),
            answer["takes_any_argument"],
        )


class Said(msgspec.Struct, frozen=True):
    """What a caller says of such a program.

    Attributes:
        shared: Whether it may run beside other calls; None is what the program says.
        idempotent: Whether it may simply run again; None is what the program says.
        arguments: What its constructor is given.
        state: What was saved of it.
    """

    shared: bool | None = None
    idempotent: bool | None = None
    arguments: dict[str, Any] = {}
    state: Saved | None = None


def check_options(module: str, options: Mapping[str, Any] | None) -> Said:
    """What the caller says of the program.

    Raises:
        InvalidOption: It says something else than there is to say, or not as it is said.
    """
    given = {} if options is None else options
    if not isinstance(given, Mapping):
        raise InvalidOption(f"options of {module} are a dict, not {type(given).__name__}")
    checked: dict[str, Any] = {}
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
        if name in _FLAGS and not isinstance(value, bool):
            raise _takes(module, name, "True or False", value)
        if name == "arguments" and not (
            isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
        ):
            raise _takes(module, name, "a dict by parameter name", value)
        if name == "state" and not isinstance(value, Saved):
            raise _takes(module, name, "a path to a JSON file, or a dict", value)
        checked[name] = dict(value) if name == "arguments" else value
    return Said(**checked)


def _takes(module: str, name: str, expected: str, value: Any) -> InvalidOption:
    return InvalidOption(
        f"option {name!r} of {module} takes {expected}, not {str(value)[:40]!a}",
        details={"module": module, "option": name, "expected": expected},
    )


def specify(described: Description, options: Mapping[str, Any] | None) -> tuple[ProgramSpec, bool, bool]:
    """The program with what a caller says of it, and whether it is shared and idempotent.

    Raises:
        InvalidOption: It says something that there is not to say.
        InvalidInput: An argument cannot be sent.
        PayloadTooLarge: The arguments are too large to go with a call.
    """
    said = check_options(described.module, options)
    known = [(parameter.name, parameter.required) for parameter in described.arguments]
    check_arguments(described.module, known, said.arguments, takes_any=described.takes_any_argument)
    spec = ProgramSpec(
        described.module,
        None,
        arguments=_encoded(said.arguments),
        state=b"" if said.state is None else said.state.encoded,
    )
    shared = described.shared if said.shared is None else said.shared
    idempotent = described.idempotent if said.idempotent is None else said.idempotent
    return spec, shared, idempotent


def _encoded(arguments: dict[str, Any]) -> bytes:
    if not arguments:
        return b""
    pieces, _ = encode({name: arguments[name] for name in sorted(arguments)}, where="arguments")
    size = sum(map(len, pieces))
    if size > LONGEST:
        raise PayloadTooLarge(
            f"arguments of {size:,} bytes are too large to go with each call: at most {LONGEST:,}; have the "
            "constructor read them, or make them an input",
            details={"size": size, "limit": LONGEST},
        )
    return b"".join(pieces)


def check_arguments(
    module: str, known: Sequence[tuple[str, bool]], given: Mapping[str, Any], *, takes_any: bool
) -> None:
    """Compare the arguments of a constructor with its parameters.

    Args:
        module: The program's import path.
        known: Names of the parameters, each with whether it has to be given.
        given: What was given.
        takes_any: Whether it takes others as well.

    Raises:
        InvalidOption: One is missing, or unknown.
    """
    names = [name for name, _ in known]
    unknown = [name for name in given if name not in names]
    if unknown and not takes_any:
        shown = ", ".join(hinted(name, names) for name in unknown[:5])
        raise InvalidOption(
            f"the constructor of {module} has no argument {shown}; it has {listed(names) or 'none'}",
            details={"module": module, "option": "arguments", "unknown": unknown, "known": names},
        )
    if missing := [name for name, required in known if required and name not in given]:
        raise InvalidOption(
            f"the constructor of {module} needs {listed(missing)}; give it in "
            f"arguments={{{missing[0]!r}: ...}}",
            details={"module": module, "option": "arguments", "missing": missing, "known": names},
        )


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
