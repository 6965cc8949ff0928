"""How a prompt becomes inputs: a text fills the one input that is missing, a conversation also a history."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dspex.errors import InvalidInput
from dspex.program.fieldtypes import HISTORY
from dspex.program.signature import Field, Signature, default_instructions, type_of
from dspex.program.suggest import nearest

#: The name of the history input that is added to a signature that has none.
HISTORY_NAME = "history"
_ROLES = ("system", "user", "assistant")

Message = Mapping[str, Any]


class _Conversation(msgspec.Struct):
    """A list of messages, taken apart.

    Attributes:
        prompt: The last user message.
        turns: What the user said and the assistant answered before it, in pairs.
        system: The system texts in order.
    """

    prompt: str
    turns: list[tuple[str, str]]
    system: list[str]


def fill(
    signature: Signature,
    prompt: str | Sequence[Message] | None,
    inputs: Mapping[str, Any] | None,
) -> tuple[Signature, dict[str, Any]]:
    """The signature and the inputs that a call runs with.

    A text prompt fills the one input that `inputs` does not give. Of a list of messages the last one,
    the user's, is the prompt; each pair before it is a turn of the signature's `dspy.History` input, which
    is added when there is none; system texts join the instructions. An input that may be None may be
    missing; a history that is missing is empty.

    Args:
        signature: What the program takes; a checked one.
        prompt: A text, a list of messages with ``role`` and ``content``, or None.
        inputs: Inputs by field name.

    Returns:
        The signature, with a history and instructions as the messages ask for, and the inputs in the
        order of its fields. A history is a list of dicts, one a turn.

    Raises:
        InvalidInput: An input is missing (``details["missing"]``) or unknown (``details["unknown"]``),
            the prompt has no place or more than one, or a message is not one that can be used.
    """
    given = _known(signature, inputs)
    history = next((field.name for field in signature.inputs if field.type == HISTORY), None)
    missing = [field for field in signature.inputs if field.name not in given and field.name != history]
    required = [
        field.name
        for field in missing
        if field.default is None and not type_of(field.type, signature.names).admits_none()
    ]
    if prompt is None:
        if required:
            raise InvalidInput(
                f"missing input: {listed(required)}; give it in inputs={{{required[0]!r}: ...}}"
                + (" or as the prompt" if len(required) == 1 else ""),
                details={"missing": required},
            )
    else:
        fields = [field.name for field in signature.inputs]
        place = place_of(fields, required, [field.name for field in missing])
        talk = _taken_apart(prompt)
        given[place] = talk.prompt
        if talk.turns:
            signature, history = _with_history(signature, history, given)
            answer = signature.outputs[-1].name
            given[history] = [{place: said, answer: answered} for said, answered in talk.turns]
        if talk.system:
            base = signature.instructions or default_instructions(signature)
            signature = signature.with_instructions("\n\n".join([base, *talk.system]))
    if history is not None and given.get(history) is None:
        given[history] = []
    return signature, {field.name: given[field.name] for field in signature.inputs if field.name in given}


def mapping(inputs: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The inputs that a caller gave, none for None.

    Raises:
        InvalidInput: They are no mapping.
    """
    if inputs is None:
        return {}
    if not isinstance(inputs, Mapping):
        raise InvalidInput(f"inputs are a dict of field names to values, not {type(inputs).__name__}")
    return inputs


def _known(signature: Signature, inputs: Mapping[str, Any] | None) -> dict[str, Any]:
    inputs = mapping(inputs)
    names = [field.name for field in signature.inputs]
    unknown = [str(name).encode("utf-8", "replace").decode() for name in inputs if name not in names]
    if unknown:
        raise InvalidInput(
            f"unknown input {', '.join(hinted(name, names) for name in unknown[:5])}; "
            f"the signature has {listed(names)}",
            details={"unknown": unknown, "known": names},
        )
    return dict(inputs)


def hinted(name: str, names: Sequence[str]) -> str:
    """An unknown name, with the known one that it most likely meant."""
    close = nearest(name, names)
    return f"{reprlib.repr(name)} (did you mean {close!r}?)" if close else reprlib.repr(name)


def place_of(fields: Sequence[str], required: list[str], missing: list[str]) -> str:
    """The input that the prompt fills: the one that has to be given, else the one that may be.

    Raises:
        InvalidInput: There is none, or more than one.
    """
    candidates = required or missing
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        given = f"every input is given already ({listed(fields)})" if fields else "it has no inputs"
        raise InvalidInput(f"{given}, so there is none for the prompt to fill")
    raise InvalidInput(
        f"the prompt could fill any of {listed(candidates)}; give all but one of them in inputs",
        details={"missing": candidates},
    )


def _taken_apart(prompt: str | Sequence[Message]) -> _Conversation:
    if isinstance(prompt, str):
        return _Conversation(prompt, [], [])
    if not isinstance(prompt, list | tuple):
        raise InvalidInput(f"a prompt is a text or a list of messages, not {type(prompt).__name__}")
    system: list[str] = []
    spoken: list[tuple[int, str, str]] = []
    for index, message in enumerate(prompt):
        role, content = _checked(index, message)
        if role == "system":
            system.append(content)
        else:
            spoken.append((index, role, content))
    if not spoken or prompt[-1]["role"] != "user":
        raise InvalidInput("the last message has to be the user's; it is the prompt")
    for (index, role, _), expected in zip(spoken, ("user", "assistant") * len(spoken), strict=False):
        if role != expected:
            raise _bad(index, f"is the {role}'s where one of the {expected} is expected; they take turns")
    earlier = [content for _, _, content in spoken[:-1]]
    return _Conversation(spoken[-1][2], list(zip(earlier[::2], earlier[1::2], strict=True)), system)


def _checked(index: int, message: Any) -> tuple[str, str]:
    if not isinstance(message, Mapping):
        raise _bad(index, f"is not a dict with role and content but {type(message).__name__}")
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        raise _bad(index, f"has the role {reprlib.repr(role)}; roles are {', '.join(_ROLES)}")
    if not isinstance(content, str):
        raise _bad(index, f"has content of type {type(content).__name__}; only text can be used")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise _bad(index, "has a lone surrogate in its content, which cannot be sent") from None
    # What a message has besides (tool calls, a refusal) would be lost without a word.
    more = sorted(
        str(key) for key, value in message.items() if key not in ("role", "content") and value is not None
    )
    if more:
        raise _bad(index, f"has {', '.join(more)} besides role and content, which cannot be used")
    return role, content


def _bad(index: int, what: str) -> InvalidInput:
    return InvalidInput(f"message {index} {what}", details={"message": index})


def _with_history(
    signature: Signature, history: str | None, given: Mapping[str, Any]
) -> tuple[Signature, str]:
    if history is not None:
        if history in given:
            raise InvalidInput(
                f"the messages and the input {history!r} both give a history; give one of them"
            )
        return signature, history
    if any(field.name == HISTORY_NAME for field in (*signature.inputs, *signature.outputs)):
        raise InvalidInput(
            f"earlier messages need a history, but the field {HISTORY_NAME!r} of the signature is not one; "
            f"rename it, or give it the type {HISTORY}"
        )
    added = Field(HISTORY_NAME, HISTORY)
    return msgspec.structs.replace(signature, inputs=(*signature.inputs, added)), HISTORY_NAME


def listed(names: Sequence[str]) -> str:
    """Names as messages list them."""
    return ", ".join(repr(name) for name in names)
