"""How a provider is reached besides by its key: its address, options, credentials and headers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from dspex import checks
from dspex.errors import InvalidOption, LMNotConfigured
from dspex.lm import secrets
from dspex.lm.providers import CREDENTIALS, PROVIDERS, Option, Provider
from dspex.types import Connection, without_password

#: Options that hold names with values, for every provider that is asked over HTTP.
_MAPPINGS = ("extra_headers", "extra_query")
_OPTIONS = frozenset(
    {option.name for row in PROVIDERS.values() for option in row.options} | {CREDENTIALS.name, *_MAPPINGS}
)
# What a request's address ends with: an engine adds it, so it is no part of the server's address.
_ENDPOINTS = ("/chat/completions", "/completions", "/responses", "/messages", "/converse", ":generateContent")
# Options that say whose identity a cloud is to see, as a credential does.
_IDENTITIES = frozenset({CREDENTIALS.name, "aws_profile_name", "aws_role_name"})


def check_base_url(base_url: str | None) -> str | None:
    """The address as engines want it.

    Raises:
        InvalidOption: It is no address, or that of one endpoint of a server.
    """
    checks.text("base_url", base_url)
    if base_url is None:
        return None
    if not base_url.startswith(("http://", "https://")):
        raise checks.refuse(
            "base_url", "a URL such as 'http://localhost:8000/v1'", without_password(base_url)
        )
    parts = urlsplit(base_url)
    if parts.query or parts.fragment:
        raise InvalidOption(
            "base_url ends before the '?'; an Azure deployment's version is LM(api_version=...), the rest "
            "LM(extra_query={...})",
            details={"option": "base_url"},
        )
    address = base_url.rstrip("/")
    for ending in _ENDPOINTS:
        if parts.path.rstrip("/").endswith(ending):
            whole, server = without_password(address), without_password(address.removesuffix(ending))
            raise InvalidOption(
                f"base_url ends before {ending!r}, which is added to it: {server!r}, not {whole!r}",
                details={"option": "base_url"},
            )
    return address


def split(
    provider: Provider | None, params: dict[str, Any], *, litellm: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tell the options of a connection from the parameters of a request.

    Args:
        provider: Whose they are; None is a provider that only LiteLLM knows.
        params: What the user said.
        litellm: Whether it is asked through LiteLLM, which adds nothing to an address.

    Raises:
        InvalidOption: The provider does not take one of them, or not with this value.
    """
    given = {name: value for name, value in params.items() if name in _OPTIONS and value is not None}
    rest = {name: value for name, value in params.items() if name not in _OPTIONS}
    taken = _OPTIONS if provider is None else _taken(provider)
    taken -= {"extra_query"} if litellm else set()
    for name, value in given.items():
        if name not in taken:
            owner = "LM" if provider is None else provider.name
            raise InvalidOption(
                f"{owner} does not take {name}; it takes {', '.join(sorted(taken)) or 'no options'}",
                details={"option": name},
            )
        if name in _MAPPINGS:
            if not _is_text_by_name(value):
                kind = type(value).__name__
                raise InvalidOption(f"{name} has to be a dict of texts, not {kind}", details={"option": name})
        elif name == CREDENTIALS.name and value != "ambient":
            raise InvalidOption(
                "credentials is 'ambient', for what the workers find by themselves, or not given",
                details={"option": name},
            )
        elif not isinstance(value, str) or not value:
            raise InvalidOption(
                f"{name} has to be text, not {type(value).__name__}", details={"option": name}
            )
    return given, rest


def _taken(provider: Provider) -> frozenset[str]:
    if provider.name == "local":
        return frozenset()
    identity = {CREDENTIALS.name} if provider.identity else set()
    return frozenset({option.name for option in provider.options} | identity | {*_MAPPINGS})


def _is_text_by_name(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(part, str) for item in value.items() for part in item
    )


def address(provider: Provider | None, base_url: str | None) -> str | None:
    """Where requests go; None is the address that the engine knows.

    Raises:
        LMNotConfigured: The provider has no address of its own, and none was given.
    """
    if provider is None:
        return base_url
    if base_url is not None:
        # People write a local server's address without its path, as other tools want it.
        bare = provider.base_url is not None and not urlsplit(base_url).path
        return base_url + urlsplit(provider.base_url).path if bare and provider.base_url else base_url
    if not provider.base_url_variables:
        return provider.base_url
    for variable in provider.base_url_variables:
        if found := os.environ.get(variable):
            return found.rstrip("/")
    raise LMNotConfigured(
        f"{provider.name} has no address of its own: pass LM(base_url='https://...'), the endpoint of your "
        f"resource, or set {' or '.join(provider.base_url_variables)}",
        details={"variable": provider.base_url_variables[0]},
    )


def names_identity(provider: Provider, given: Mapping[str, Any]) -> bool:
    """Whether the user said himself who he is, so that no variable may say it in his place."""
    secret = {option.name for option in provider.options if option.secret}
    return not given.keys().isdisjoint(secret | _IDENTITIES)


def fetch(provider: Provider, given: Mapping[str, Any], key: str | None, *, own_address: bool) -> Connection:
    """What a worker needs to know, looked up now.

    Args:
        provider: Whose connection it is.
        given: The options that the user gave; a text may be a reference (``"env:NAME"``).
        key: The key that was found.
        own_address: Whether requests go to the provider itself. Its credentials are read from
            variables only then.

    Raises:
        LMNotConfigured: Something that is needed is not there.
    """
    credentials_from_variables = own_address and key is None and not names_identity(provider, given)
    options: dict[str, str] = {}
    credentials: dict[str, str] = {}
    headers: dict[str, str] = {}
    for option in provider.options:
        value = given.get(option.name)
        if value is not None:
            value = secrets.fetch(value)
        elif credentials_from_variables or not option.secret:
            value = next((os.environ[name] for name in option.variables if os.environ.get(name)), None)
        if value and option.header:
            headers[option.header] = value
        elif value:
            (credentials if option.secret else options)[option.name] = value
        elif option.needed:
            raise LMNotConfigured(
                f"{provider.name} needs {option.name}: set {' or '.join(option.variables)}, or pass "
                f"LM({option.name}=...)",
                details={"variable": option.variables[0]},
            )
    if CREDENTIALS.name in given:
        options[CREDENTIALS.name] = given[CREDENTIALS.name]
    if provider.identity and key is None and not credentials and not names_identity(provider, given):
        raise _nobody(provider, own_address=own_address)
    headers |= {name: secrets.fetch(value) for name, value in given.get("extra_headers", {}).items()}
    query = {name: secrets.fetch(value) for name, value in given.get("extra_query", {}).items()}
    return Connection(
        options=_sorted(options),
        credentials=_sorted(credentials),
        headers=_sorted(headers),
        query=_sorted(query),
    )


def _sorted(values: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(values.items()))


def _nobody(provider: Provider, *, own_address: bool) -> LMNotConfigured:
    secret: list[Option] = [option for option in provider.options if option.secret]
    variables = [*provider.variables, *(name for option in secret for name in option.variables)]
    theirs = (
        f"set {' or '.join(variables)}, or " if own_address else "with a base_url no variable is read, so "
    )
    return LMNotConfigured(
        f"{provider.name} has no credentials: {theirs}pass LM(api_key=...), "
        f"LM({', '.join(f'{option.name}=...' for option in secret[:2])}), or LM(credentials='ambient') for "
        "the identity that the workers find by themselves",
        details={"variable": variables[0]},
    )
