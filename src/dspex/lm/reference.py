"""A language model as it is stored: by name, or by its options with references to keys. Never with a key."""

from __future__ import annotations

import secrets as random
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import msgspec

from dspex.errors import InvalidOption, LMNotConfigured
from dspex.lm.profile import LM
from dspex.lm.secrets import is_reference
from dspex.types import Breaker, Limits, LMReference, Retry

_HELD = 10_000
# Request parameters that hold no secret; any other may, and its LM is held in memory.
_PLAIN = frozenset(
    {
        *("top_p", "top_k", "min_p", "seed", "stop", "frequency_penalty", "presence_penalty", "logprobs"),
        *("top_logprobs", "reasoning_effort", "verbosity", "service_tier", "n", "max_completion_tokens"),
        *("repetition_penalty", "parallel_tool_calls"),
    }
)
_OPTIONS = ("temperature", "max_tokens", "timeout", "adapter", "engine", "schema", "base_url")


class References:
    """The LMs that sessions and programs name, of one runtime. Used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[str, LM] = OrderedDict()

    def stored(self, lm: LM | str, profiles: Mapping[str, LM]) -> LMReference:
        """An LM as it is stored.

        Args:
            lm: The LM.
            profiles: Those that have names here: one that is equal goes by its name.
        """
        if isinstance(lm, str):
            return LMReference(name=lm)
        for name, profile in profiles.items():
            if profile == lm:
                return LMReference(name=name)
        options = _options(lm)
        if options is not None:
            return LMReference(options=options)
        held = random.token_hex(8)
        with self._lock:
            self._held[held] = lm
            while len(self._held) > _HELD:
                self._held.popitem(last=False)
        return LMReference(held=held, model=lm.model)

    def found(self, stored: LMReference) -> LM | str:
        """The LM that was stored.

        Raises:
            LMNotConfigured: It has to be given again: its key was no reference, and another runtime had it.
            InvalidOption: It is none that this version knows.
        """
        if stored.name is not None:
            return stored.name
        if stored.options is not None:
            return _checked(stored.options)
        with self._lock:
            lm = self._held.get(stored.held or "")
        if lm is None:
            raise LMNotConfigured(
                f"the LM {stored.model} has to be given again: it has a key or an option that is not stored. "
                "Give it to the call (lm=...), or name a profile, or give its key by reference "
                "(LM(api_key='env:NAME')), which is stored",
                details={"model": stored.model},
            )
        return lm


def identity(lm: LM) -> dict[str, Any]:
    """What an LM's answers depend on: plain values, no key and nothing that may be one."""
    said: dict[str, Any] = {"model": lm.model}
    said |= {
        name: value for name in _OPTIONS if (value := getattr(lm, name)) is not None and name != "timeout"
    }
    said |= {name: value for name, value in lm.params.items() if name in _PLAIN}
    if lm.extraction_lm is not None:
        said["extraction_lm"] = identity(lm.extraction_lm)
    return said


def _options(lm: LM) -> dict[str, Any] | None:
    """Its arguments; None when one of them may be a secret, or cannot be stored."""
    if lm.api_key is not None and not (isinstance(lm.api_key, str) and is_reference(lm.api_key)):
        return None
    if lm.connection or lm.params.keys() - _PLAIN:
        return None
    options: dict[str, Any] = {"model": lm.model}
    options |= {name: value for name in _OPTIONS if (value := getattr(lm, name)) is not None}
    if lm.api_key is not None:
        options["api_key"] = lm.api_key
    if lm.cache is not None:
        options["cache"] = lm.cache
    if lm.limits is not None:
        options["limits"] = msgspec.to_builtins(lm.limits)
    if lm.retry != Retry():
        options["retry"] = msgspec.to_builtins(lm.retry)
    if lm.breaker != Breaker():
        options["breaker"] = None if lm.breaker is None else msgspec.to_builtins(lm.breaker)
    if lm.fallbacks:
        # One with a key has it in the memory of this process only, and so has this LM.
        others = [one if isinstance(one, str) else _options(one) for one in lm.fallbacks]
        if None in others:
            return None
        options["fallbacks"] = others
    if lm.params:
        options["params"] = lm.params
    if lm.extraction_lm is not None:
        second = _options(lm.extraction_lm)
        if second is None:
            return None
        options["extraction_lm"] = second
    return options


def _made(options: Mapping[str, Any]) -> LM:
    given = dict(options)
    params = given.pop("params", {})
    for name, kind in (("limits", Limits), ("retry", Retry)):
        if name in given:
            given[name] = msgspec.convert(given[name], kind)
    if given.get("breaker") is not None:
        given["breaker"] = msgspec.convert(given["breaker"], Breaker)
    if "fallbacks" in given:
        given["fallbacks"] = [one if isinstance(one, str) else _made(one) for one in given["fallbacks"]]
    if "extraction_lm" in given:
        given["extraction_lm"] = _made(given["extraction_lm"])
    return LM(**given, **params)


def _checked(options: Mapping[str, Any]) -> LM:
    try:
        return _made(options)
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidOption(f"it makes no LM: {error}", details={"option": "lm"}) from None
