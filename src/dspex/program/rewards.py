"""A reward as it travels: what kind it is, and for a caller's own function only what it is called.

``{"kind": "exact_match", "field": ..., "expected": ...}`` and its like are worked out in the worker,
``{"kind": "path", "path": ...}`` is loaded there, and ``{"kind": "caller", ...}`` is called back.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import textwrap
import weakref
from collections.abc import Callable
from typing import Any

import msgspec

from dspex.rewards import Reward

#: By this name a worker asks for the caller's reward; no tool can be called so.
CALLED = "dspex.reward"
_LONGEST_SOURCE = 64 * 1024
_sources: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def as_sent(value: Any) -> dict[str, Any]:
    """What a worker is told of a reward.

    Raises:
        TypeError: It is none.
        ValueError: It is one that cannot be sent.
    """
    if isinstance(value, Reward):
        return _built_in(value)
    if isinstance(value, dict):
        return _built_in(_of_json(value))
    if isinstance(value, str):
        return {"kind": "path", "path": _path(value)}
    if callable(value) and not isinstance(value, type):
        _takes_two(value)
        return {"kind": "caller", "name": name_of(value)}
    raise TypeError


def with_source(value: Any) -> dict[str, Any]:
    """The same with the source of a caller's function, which ``Refine`` shows the model.

    Raises:
        TypeError: It is none.
        ValueError: It is one that cannot be sent.
    """
    sent = as_sent(value)
    return {**sent, "source": source_of(value)} if sent["kind"] == "caller" else sent


def name_of(function: Any) -> str:
    """What a function is called."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", None) or type(function).__name__)[:200]


def source_of(function: Any) -> str:
    """The source of a function as DSPy would show it; where there is none, its name and what it says."""
    try:
        if (known := _sources.get(function)) is not None:
            return known
    except TypeError:  # it cannot be told from others
        return _read(function)
    found = _read(function)
    with contextlib.suppress(TypeError):
        _sources[function] = found
    return found


def _read(function: Any) -> str:
    for wanted in (function, type(function)):
        try:
            found: str = inspect.getsource(wanted)
            break
        except (OSError, TypeError):
            continue
    else:
        doc = inspect.getdoc(function) or "Its source is not known."
        said = textwrap.indent(f'"""{doc}"""', "    ")
        found = f"def {name_of(function)}(args, prediction):\n{said}\n"
    return found[:_LONGEST_SOURCE].encode("utf-8", "replace").decode()


def _built_in(reward: Reward) -> dict[str, Any]:
    if reward.field is not None and not isinstance(reward.field, str):
        raise TypeError
    if reward.kind == "contains" and not isinstance(reward.expected, str):
        raise TypeError
    if reward.kind not in ("exact_match", "contains", "json_schema"):
        raise ValueError
    # Sorted, so that equal schemas are equal programs.
    expected = msgspec.json.decode(msgspec.json.encode(reward.expected, order="sorted"))
    return {"kind": reward.kind, "field": reward.field, "expected": expected}


def _of_json(value: dict[Any, Any]) -> Reward:
    """A built-in reward from its fields, as a stored program and a caller without Python have it."""
    if not value.keys() <= set(Reward.__struct_fields__):
        raise TypeError
    try:
        return msgspec.convert(value, Reward)
    except msgspec.ValidationError:
        raise TypeError from None


def _path(text: str) -> str:
    from dspex.errors import ModuleNotFound
    from dspex.program.importpath import split  # which needs the table that this room is a part of

    try:
        split(text)
    except ModuleNotFound as error:
        raise ValueError(error.message) from None
    return text


def _takes_two(function: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C
        return
    signature.bind({}, None)
