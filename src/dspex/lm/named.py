"""Profiles of language models as settings have them, made into ``LM`` objects."""

from __future__ import annotations

from typing import Any

from dspex import checks
from dspex.errors import DspexError, InvalidOption
from dspex.lm import providers
from dspex.lm.profile import LM
from dspex.settings import Settings
from dspex.types import Breaker, Limits, Retry

# Options that are a table in a file and an object in code.
_OBJECTS = {"breaker": Breaker, "limits": Limits, "retry": Retry}


def from_settings(settings: Settings) -> dict[str, LM]:
    """The profiles of settings by name.

    Raises:
        InvalidOption: A value is not one that ``LM`` takes; the message begins with the place where it is
            written.
        UnknownProvider: A model names a provider that is not known; as above.
    """
    made: dict[str, LM] = {}
    for name in settings.lms:
        _make(name, settings, made, ())
    return made


def _make(name: str, settings: Settings, made: dict[str, LM], asking: tuple[str, ...]) -> LM:
    if name not in made:
        options = dict(settings.lms[name])
        second = options.get("extraction_lm")
        chain = (*asking, name)
        if isinstance(second, str) and second in settings.lms and second not in chain:
            options["extraction_lm"] = _make(second, settings, made, chain)
        try:
            made[name] = _lm(options, chain)
        except DspexError as error:
            raise settings.blame(error, "lm", name) from None
    return made[name]


def _lm(options: dict[str, Any], chain: tuple[str, ...]) -> LM:
    for key, kind in _OBJECTS.items():
        if options.get(key) is not None:
            options[key] = kind(**options[key])
    second = options.get("extraction_lm")
    if second in chain:
        raise InvalidOption(
            f"extraction_lm has to be another LM; {' → '.join((*chain, second))} comes back to itself",
            details={"option": "extraction_lm"},
        )
    if isinstance(second, str):
        try:
            options["extraction_lm"] = LM(second)
        except DspexError as error:
            raise type(error)(error.message, details={**error.details, "option": "extraction_lm"}) from None
    return LM(**options)


def configured(provider: str, config: dict[str, Any]) -> LM:
    """An LM from a provider's name and what ``LM`` takes, ``model`` among it, without its provider.

    Raises:
        UnknownProvider: No such provider; the message lists them.
        InvalidOption: The configuration is not one that ``LM`` takes.
    """
    # An engine that is named may know a provider that the table does not.
    is_named = isinstance(provider, str) and bool(provider)
    known = None if is_named and config.get("engine") is not None else providers.find(provider)
    model = config.pop("model", None)
    checks.text("model", model)
    if provider == "local":
        name = "local" if model in {None, "local"} else f"local:{model.removeprefix('local:')}"
    elif model is None:
        raise InvalidOption(
            f"configure({provider!r}) needs model=..., the model's name", details={"option": "model"}
        )
    else:
        names = {provider, known.name, known.prefix, *known.aliases} if known else {provider}
        prefix, slash, _ = model.partition("/")
        name = model if slash and prefix in names else f"{provider}/{model}"
    return LM(name, **config)
