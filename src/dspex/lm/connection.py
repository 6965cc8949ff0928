"""How a provider is reached besides by its key: its address, options, credentials and headers."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import SplitResult, urlsplit

from dspex import checks
from dspex.errors import InvalidOption, LMNotConfigured
from dspex.lm import secrets
from dspex.lm.providers import CREDENTIALS, PROVIDERS, Option, Provider
from dspex.types import Connection

#: Options that hold names with values, for every provider that is asked over HTTP.
_MAPPINGS = ("extra_headers", "extra_query")
_OPTIONS = frozenset(
    {option.name for row in PROVIDERS.values() for option in row.options} | {CREDENTIALS.name, *_MAPPINGS}
)
# What a request's address ends with: an engine adds it, so it is no part of the server's address.
_ENDPOINTS = ("/chat/completions", "/completions", "/responses", "/messages", "/converse", ":generateContent")
# Options that say whose identity a cloud is to see, as a credential does.
_IDENTITIES = frozenset({CREDENTIALS.name, "aws_profile_name", "aws_role_name"})
_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def check_base_url(base_url: str | None) -> str | None:
    """The address as engines want it.

    Raises:
        InvalidOption: It is no address, that of one endpoint of a server, or holds a password. What holds
            one, or may, is not repeated.
    """
    checks.text("base_url", base_url)
    if base_url is None:
        return None
    parts = _parts(base_url)
    if "@" in parts.netloc:
        raise InvalidOption(
            "base_url holds no user and password; pass them as LM(extra_headers={'Authorization': "
            "'env:NAME'}), as the server wants them",
            details={"option": "base_url"},
        )
    if parts.query or parts.fragment:
        raise InvalidOption(
            "base_url ends before the '?'; an Azure deployment's version is LM(api_version=...), the rest "
            "LM(extra_query={...})",
            details={"option": "base_url"},
        )
    address = base_url.rstrip("/")
    for ending in _ENDPOINTS:
        if parts.path.rstrip("/").endswith(ending):
            server = address.removesuffix(ending)
            raise InvalidOption(
                f"base_url ends before {ending!r}, which is added to it: {server!r}, not {address!r}",
                details={"option": "base_url"},
            )
    return address


def _parts(base_url: str) -> SplitResult:
    try:
        parts = urlsplit(base_url)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not close, a port that is none
        is_whole = False
    if not is_whole or not base_url.startswith(("http://", "https://")) or _BLANK.search(base_url):
        raise InvalidOption(
            "base_url has to be a URL such as 'http://localhost:8000/v1': with http:// or https://, a host, "
            "a port of at most 65535 if there is one, and no blanks",
            details={"option": "base_url"},
        )
    return parts


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
            _check_texts(name, value)
        elif name == CREDENTIALS.name and value != "ambient":
            raise InvalidOption(
                "credentials is 'ambient', for what the workers find by themselves, or not given",
                details={"option": name},
            )
        elif not isinstance(value, str) or not value:
            raise InvalidOption(
                f"{name} has to be text, not {type(value).__name__}", details={"option": name}
            )
        else:
            secrets.check_reference(value, name)
    return given, rest


def _taken(provider: Provider) -> frozenset[str]:
    if provider.name == "local":
        return frozenset()
    identity = {CREDENTIALS.name} if provider.identity else set()
    return frozenset({option.name for option in provider.options} | identity | {*_MAPPINGS})


def _check_texts(option: str, value: object) -> None:
    details = {"option": option}
    if not isinstance(value, Mapping) or not all(isinstance(x, str) for item in value.items() for x in item):
        kind = type(value).__name__
        raise InvalidOption(f"{option} has to be a dict of texts, not {kind}", details=details)
    for name, text in value.items():
        secrets.check_reference(text, option)
        if option == "extra_headers" and not (
            _HEADER_NAME.fullmatch(name) and secrets.is_sendable(text.strip())
        ):
            raise InvalidOption(
                "extra_headers holds a name or a value that cannot be sent: names are letters, digits and "
                "hyphens, values are Latin-1 without line ends",
                details=details,
            )


def texts(given: Mapping[str, Any]) -> list[str]:
    """The values of options, each of which may be a reference."""
    mapped = [text for name in _MAPPINGS for text in given.get(name, {}).values()]
    return mapped + [value for name, value in given.items() if name not in _MAPPINGS]


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
    if (variable := secrets.first_set(provider.base_url_variables)) is not None:
        try:
            return check_base_url(os.environ[variable].strip())
        except InvalidOption as error:
            raise LMNotConfigured(f"{variable}: {error.message}", details={"variable": variable}) from None
    raise LMNotConfigured(
        f"{provider.name} has no address of its own: pass LM(base_url='https://...'), the endpoint of your "
        f"resource, or set {' or '.join(provider.base_url_variables)}",
        details={"variable": provider.base_url_variables[0]},
    )


def names_identity(provider: Provider, given: Mapping[str, Any]) -> bool:
    """Whether the user said himself who he is, so that no variable may say it in his place."""
    secret = {option.name for option in provider.options if option.secret}
    return not given.keys().isdisjoint(secret | _IDENTITIES)


def fetch(
    provider: Provider,
    given: Mapping[str, Any],
    key: str | None,
    *,
    own_address: bool,
    found: Mapping[secrets.Secret, str] = MappingProxyType({}),
) -> Connection:
    """What a worker needs to know, looked up now.

    Args:
        provider: Whose connection it is.
        given: The options that the user gave; a text may be a reference (``"env:NAME"``).
        key: The key that was found.
        own_address: Whether requests go to the provider itself. Its credentials are read from
            variables only then.
        found: What references whose look-up takes time gave.

    Raises:
        LMNotConfigured: Something that is needed is not there, or not as a whole.
    """
    credentials_from_variables = own_address and key is None and not names_identity(provider, given)
    options: dict[str, str] = {}
    credentials: dict[str, str] = {}
    headers: dict[str, str] = {}
    for option in provider.options:
        value = given.get(option.name)
        if value is not None:
            value = secrets.fetch(value, found)
        elif credentials_from_variables or not option.secret:
            variable = secrets.first_set(option.variables)
            value = os.environ[variable].strip() if variable else None
        if value and option.header:
            headers[option.header] = secrets.sendable(value, option.name)
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
    for half in provider.options:
        if credentials and half.half and half.name not in credentials:
            # The machine's own identity would stand in for it.
            raise LMNotConfigured(
                f"{provider.name} has one part of an access key without {half.name}: "
                f"{f'set {half.variables[0]}, or ' if credentials_from_variables else ''}"
                f"pass LM({half.name}=...)",
                details={"variable": half.variables[0]},
            )
    for name, value in given.get("extra_headers", {}).items():
        headers[name] = secrets.sendable(secrets.fetch(value, found), f"the header {name}")
    query = {name: secrets.fetch(value, found) for name, value in given.get("extra_query", {}).items()}
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
