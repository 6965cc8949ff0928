"""The providers that dspex knows, and what each needs."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from dspex.errors import UnknownProvider


@dataclass(frozen=True)
class Provider:
    """One provider of language models.

    Attributes:
        name: What users call it, and what model names begin with.
        variables: Environment variables that may hold its key, in order; none if it takes no key.
    """

    name: str
    variables: tuple[str, ...] = ()


_ALL = (
    Provider("openai", ("OPENAI_API_KEY",)),
    Provider("anthropic", ("ANTHROPIC_API_KEY",)),
    Provider("gemini", ("GEMINI_API_KEY", "GOOGLE_API_KEY")),
    Provider("local"),
)
PROVIDERS = {provider.name: provider for provider in _ALL}


def find(name: str) -> Provider:
    """The provider of that name.

    Raises:
        UnknownProvider: There is none; the message lists those there are.
    """
    if name in PROVIDERS:
        return PROVIDERS[name]
    near = difflib.get_close_matches(name, PROVIDERS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UnknownProvider(
        f"unknown provider {name!r}; {hint}Known: {', '.join(PROVIDERS)}. Any other server that speaks "
        "OpenAI's protocol: LM('openai/<model>', base_url='https://...')",
        details={"provider": name, "known": list(PROVIDERS)},
    )
