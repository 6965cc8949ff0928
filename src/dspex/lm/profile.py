"""``LM``: a language model as users name it, and how it becomes what a worker needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from dspex import checks
from dspex.errors import InvalidOption, LMNotConfigured, UnknownProvider
from dspex.lm import connection, providers, secrets
from dspex.lm.providers import Provider
from dspex.types import Breaker, Connection, Limits, LMSpec, Retry, without_password

_ADAPTERS = ("auto", "chat", "json", "xml", "two_step")
# What belongs to the connection has parameters of its own; a provider would only refuse these.
_NOT_PARAMS = frozenset(
    {
        *("api_base", "azure_ad_token_provider", "custom_llm_provider", "headers", "messages", "model_type"),
        *("provider", "num_retries"),
    }
)
# What they are called here, where it is something.
_CALLED_HERE = {"api_base": "base_url", "headers": "extra_headers", "num_retries": "retry"}
# What a model without its provider is likely to be.
_FAMILIES = {"gpt-": "openai", "o3": "openai", "o4": "openai", "claude": "anthropic", "gemini": "gemini"}
# The embedded model: greedy, because it is small, and with room, because a cut-off answer cannot be parsed.
_LOCAL_TEMPERATURE = 0.0
_LOCAL_MAX_TOKENS = 1024
#: Requests that the embedded model answers side by side; each costs 4,096 tokens of memory.
LOCAL_SLOTS = 2


class LM:
    """A language model and how it is asked. Two that are equal share one store of connections.

    Args:
        model: ``"provider/name"``, ``"local"``, or ``"local:/path/to/model.gguf"``.
        api_key: A key, a reference to one (``"env:NAME"``, ``"file:/path"``, ``"keyring:service/user"``), or
            a function without parameters, sync or async, that gives a fresh one. Without it the provider's
            own variable is read when a call needs it, but never sent to a ``base_url`` of yours.
        base_url: Address of a server that speaks the provider's protocol, without the endpoint's own path.
        temperature: Sampling temperature; None leaves it to the provider (``local``: 0).
        max_tokens: The most tokens to generate; None leaves it to the provider (``local``: 1,024).
        timeout: Seconds after which one request fails with ``lm_timeout``; None leaves it to the deadline.
        adapter: How DSPy puts a signature into words: ``"chat"``, ``"json"``, ``"xml"``, ``"two_step"``, an
            import path of your own (``"shop.adapters:Terse"``), or ``"auto"``: JSON with a schema for
            ``local``, else chat as DSPy does.
        extraction_lm: The LM of the second step of ``"two_step"``; None is this one.
        engine: ``"litellm"`` asks through LiteLLM, which also knows providers that dspex does not. Else the
            import path of an engine of your own (a class whose objects have DSPy's
            ``complete(Request) -> Response``, sync or async), for gateways that speak no known protocol.
        schema: Whether the model enforces a JSON schema; None asks DSPy's table of models.
        cache: Whether answers are kept and given again to who asks the same: True, False, or the path of a
            file in which they outlive the process. None keeps those of calls whose ``temperature`` the
            caller has set to 0 himself.
        limits: How much may be asked of it, by all workers together; None is no limit.
        retry: How one request is tried again.
        fallbacks: LMs, profiles or models that are asked instead, one after the other, when this one does not
            answer. Their own fallbacks do not count.
        breaker: When an endpoint that fails again and again is left alone for a while; None never.
        **params: Further request parameters, as the provider names them, and options of the connection:
            ``extra_headers``, ``extra_query``, and those that the table of providers lists.

    Attributes:
        slow_references: The key and the options that take time to look up; ``secrets.Keys`` does it.

    Raises:
        InvalidOption: A value is not one that the option takes.
        UnknownProvider: The model names a provider that is not known.
    """

    def __init__(
        self,
        model: str,
        *,
        api_key: secrets.Secret | None = None,
        base_url: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        timeout: float | None = None,
        adapter: str = "auto",
        extraction_lm: LM | None = None,
        engine: str | None = None,
        schema: bool | None = None,
        cache: bool | str | Path | None = None,
        limits: Limits | None = None,
        retry: Retry = Retry(),  # noqa: B008 (it is frozen)
        fallbacks: Iterable[LM | str] = (),
        breaker: Breaker | None = Breaker(),  # noqa: B008 (it is frozen)
        **params: Any,
    ) -> None:
        checks.text("engine", engine)
        if engine not in {None, "litellm"} and ":" not in engine:
            raise checks.refuse(
                "engine", "'litellm', or an import path such as 'shop.gateway:Engine'", engine
            )
        self.engine = engine
        self.model = _checked_model(model, known=engine is None)
        secrets.check(api_key)
        base_url = connection.check_base_url(base_url)
        checks.whole_number("max_tokens", max_tokens, 1, optional=True)
        if not isinstance(adapter, str) or (adapter not in _ADAPTERS and ":" not in adapter):
            raise checks.refuse("adapter", f"one of {', '.join(_ADAPTERS)} or an import path", adapter)
        if extraction_lm is not None and not isinstance(extraction_lm, LM):
            raise checks.refuse("extraction_lm", "an LM", extraction_lm)
        if schema is not None and not isinstance(schema, bool):
            raise checks.refuse("schema", "True, False or None", schema)
        if taken := sorted(_NOT_PARAMS & params.keys()):
            hint = f"; here it is {_CALLED_HERE[taken[0]]}" if taken[0] in _CALLED_HERE else ""
            raise InvalidOption(f"LM does not take {', '.join(taken)}{hint}", details={"option": taken[0]})
        provider = self._provider
        if provider is not None and provider.needs_base_url and base_url is None:
            raise InvalidOption(
                f"{provider.name} needs base_url=..., the server's address, as in 'http://localhost:8000/v1'",
                details={"option": "base_url"},
            )
        # An engine of one's own has its own connection, and takes what it likes as a parameter.
        split = (
            ({}, params)
            if self._has_own_engine
            else connection.split(provider, params, litellm=self._through_litellm)
        )
        self.connection, self.params = split
        self.api_key = api_key
        self.base_url = base_url
        self.temperature = checks.number("temperature", temperature, optional=True)
        self.max_tokens = max_tokens
        self.timeout = checks.number("timeout", timeout, 0.001, optional=True)
        self.adapter = adapter
        self.extraction_lm = extraction_lm
        self.schema = schema
        self.cache = _checked_cache(cache)
        self.limits = _checked_limits(limits)
        self.retry = _checked_retry(retry)
        self.fallbacks = _checked_fallbacks(fallbacks)
        self.breaker = _checked_breaker(breaker)
        self._key = self._encoded()
        # Asked for at each call; nothing of an LM changes once it is made.
        said = [self.api_key, *connection.texts(self.connection)]
        self.slow_references: list[secrets.Secret] = [
            secret for secret in said if secret is not None and secrets.takes_time(secret)
        ]

    @property
    def is_local(self) -> bool:
        """Whether it is the embedded model."""
        return self.model == "local" or self.model.startswith("local:")

    @property
    def endpoint(self) -> str:
        """Where it is asked, for people: its address, or its provider where that has its own."""
        return without_password(self.base_url) if self.base_url else self.model.partition("/")[0]

    @property
    def local_path(self) -> str | None:
        """The file of the embedded model, if the caller named one."""
        return self.model.partition(":")[2] or None

    @property
    def at_once(self) -> int | None:
        """How many requests it answers side by side, as far as that is known; others would wait."""
        limit = self.limits.in_flight if self.limits else None
        return min(limit or LOCAL_SLOTS, LOCAL_SLOTS) if self.is_local else limit

    def _encoded(self) -> bytes:
        fields = {name: value for name, value in vars(self).items() if name != "extraction_lm"}
        fields["fallbacks"] = [lm._key if isinstance(lm, LM) else lm for lm in self.fallbacks]
        if callable(self.api_key):
            fields["api_key"] = ["function", id(self.api_key)]  # it lives as long as this LM
        second = self.extraction_lm._key if self.extraction_lm else None
        try:
            return msgspec.msgpack.encode((fields, second), order="deterministic")
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidOption(
                f"an LM's parameters have to be plain values: {error}", details={"option": "params"}
            ) from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LM) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        shown = [repr(self.model)]
        if self.api_key is not None:
            shown.append(f"api_key={secrets.shown(self.api_key)}")
        if self.base_url is not None:
            shown.append(f"base_url={self.base_url!r}")
        names = ("temperature", "max_tokens", "timeout", "engine", "limits")
        shown += [f"{name}={value!r}" for name in names if (value := getattr(self, name)) is not None]
        return f"LM({', '.join(shown)})"

    @property
    def needs_litellm(self) -> bool:
        """Whether it, or its second step, goes through LiteLLM."""
        second = self.extraction_lm is not None and self.extraction_lm.needs_litellm
        return self._through_litellm or second

    @property
    def _has_own_engine(self) -> bool:
        return self.engine not in {None, "litellm"}

    @property
    def _through_litellm(self) -> bool:
        if self._has_own_engine or self.is_local:
            return False
        return self.engine == "litellm" or (self._provider is not None and self._provider.litellm)

    @property
    def _provider(self) -> Provider | None:
        """The provider; None for an engine of one's own, and where only LiteLLM knows it."""
        if self._has_own_engine:
            return None
        if self.is_local:
            return providers.find("local")
        try:
            return providers.find(self.model.partition("/")[0])
        except UnknownProvider:
            return None

    def fetch_key(self, found: Mapping[secrets.Secret, str] = MappingProxyType({})) -> str | None:
        """The key to send, looked up now; None where none is needed.

        Args:
            found: What ``slow_references`` gave.

        Raises:
            LMNotConfigured: There is none, or it cannot be sent.
        """
        if self.api_key is not None:
            place = secrets.shown(self.api_key).strip("'").removeprefix("env:")
            return secrets.sendable(secrets.fetch(self.api_key, found), place)
        provider = self._provider
        if provider is None or not provider.variables:
            return None
        if provider.identity and (
            connection.names_identity(provider, self.connection)
            or secrets.first_set(provider.variables) is None
        ):
            return None
        if self.base_url is not None and provider.base_url_variables:
            raise LMNotConfigured(
                f"no API key: {provider.variables[0]} is never sent to a base_url; pass "
                f"LM(api_key='env:{provider.variables[0]}') if it is meant for this one",
                details={"variable": provider.variables[0]},
            )
        if self.base_url is not None:
            return None
        key = secrets.from_environment(provider.variables)
        return secrets.sendable(key, " or ".join(provider.variables))

    def fetch_base_url(self) -> str | None:
        """Where requests go, looked up now; None is the address that the engine knows.

        Raises:
            LMNotConfigured: The provider has no address of its own, and none was given.
        """
        return connection.address(self._provider, self.base_url)

    def fetch_connection(
        self, api_key: str | None, found: Mapping[secrets.Secret, str] = MappingProxyType({})
    ) -> Connection:
        """How its provider is reached besides by address and key, looked up now.

        Args:
            api_key: The key that was found; with one, no other credentials are looked for.
            found: What ``slow_references`` gave.

        Raises:
            LMNotConfigured: Something that is needed is not there.
        """
        own_address = self.base_url is None
        provider = self._provider or Provider(self.model.partition("/")[0], "", "")
        return connection.fetch(provider, self.connection, api_key, own_address=own_address, found=found)

    def spec(
        self,
        api_key: str | None,
        base_url: str | None,
        extraction: LMSpec | None = None,
        connection: Connection = Connection(),  # noqa: B008 (it is frozen)
        *,
        gate: int = 0,
        limited: bool = False,
    ) -> LMSpec:
        """What a worker needs, with the key, the endpoint, the connection and the gate filled in."""
        local = self.is_local
        provider = self._provider
        name = self.model.partition("/")[2]
        # A server without keys ignores this one; DSPy's engines want to send something. Without an address
        # LiteLLM may know a key of its own, and a cloud other credentials.
        elsewhere = provider is not None and provider.identity
        elsewhere |= self._through_litellm and base_url is None
        model = "local/model" if local else f"{provider.prefix}/{name}" if provider else self.model
        return LMSpec(
            model=model,
            name=None if model == self.model else self.model,
            api_key=api_key or (None if elsewhere else "none"),
            base_url=base_url,
            temperature=_LOCAL_TEMPERATURE if local and self.temperature is None else self.temperature,
            max_tokens=_LOCAL_MAX_TOKENS if local and self.max_tokens is None else self.max_tokens,
            timeout=self.timeout,
            adapter=("json" if local else "chat") if self.adapter == "auto" else self.adapter,
            extraction=extraction,
            schema=self.schema,
            engine=self.engine if self._has_own_engine else None,
            litellm=self._through_litellm,
            connection=connection,
            retry=self.retry,
            gate=gate,
            limited=limited,
            params=self.params,
        )


def _checked_model(model: object, *, known: bool) -> str:
    if not isinstance(model, str) or not model.strip():
        raise InvalidOption(
            f"model has to be text such as 'openai/gpt-5-mini' or 'local', not {model!r}",
            details={"option": "model"},
        )
    if model == "local" or model.startswith("local:"):
        return model
    provider, slash, name = model.partition("/")
    if not slash or not name or provider == "local":
        family = next((row for begin, row in _FAMILIES.items() if model.startswith(begin)), None)
        hint = f"did you mean '{family}/{model}'? " if family and not slash else ""
        raise InvalidOption(
            f"{hint}a model is written 'provider/name', as in 'openai/gpt-5-mini', or 'local', or "
            f"'local:/path/to/model.gguf', not {model!r}",
            details={"option": "model"},
        )
    if known:
        providers.find(provider)
    return model


def _checked_cache(cache: Any) -> bool | str | None:
    if cache is None or isinstance(cache, bool):
        return cache
    if not isinstance(cache, str | Path) or not str(cache).strip() or "\0" in str(cache):
        raise checks.refuse("cache", "True, False, or the path of a file", cache)
    try:
        Path(cache).expanduser()
    except RuntimeError as error:
        raise InvalidOption(f"cache={str(cache)!r}: {error}", details={"option": "cache"}) from None
    return str(cache)


def _checked_limits(limits: Any) -> Limits | None:
    if limits is None:
        return None
    if not isinstance(limits, Limits):
        raise checks.refuse("limits", "Limits(...)", limits)
    for name, number in limits.numbers.items():
        checks.whole_number(name, number, 1, owner="Limits")
    if not isinstance(limits.across_tenants, bool):
        raise checks.refuse("across_tenants", "True or False", limits.across_tenants, "Limits")
    return limits


def _checked_retry(retry: Any) -> Retry:
    if not isinstance(retry, Retry):
        raise checks.refuse("retry", "a Retry", retry)
    checks.whole_number("attempts", retry.attempts, 1, owner="Retry")
    checks.number("wait", retry.wait, what="a number of seconds", owner="Retry")
    checks.number("max_wait", retry.max_wait, what="a number of seconds", owner="Retry")
    return retry


def _checked_fallbacks(fallbacks: Any) -> tuple[LM | str, ...]:
    wants = "a list of LMs, of names of profiles, or of models"
    if isinstance(fallbacks, str | LM) or not isinstance(fallbacks, Iterable):
        raise checks.refuse("fallbacks", wants, fallbacks)
    checked = tuple(fallbacks)
    for one in checked:
        if not isinstance(one, LM) and (not isinstance(one, str) or not one):
            raise checks.refuse("fallbacks", wants, one)
    return checked


def _checked_breaker(breaker: Any) -> Breaker | None:
    if breaker is None:
        return None
    if not isinstance(breaker, Breaker):
        raise checks.refuse("breaker", "a Breaker, or None", breaker)
    checks.whole_number("failures", breaker.failures, 1, owner="Breaker")
    if not 0 < (checks.number("share", breaker.share, owner="Breaker") or 0.0) <= 1:
        raise checks.refuse("share", "above 0 and at most 1", breaker.share, "Breaker")
    for name in ("window", "pause"):
        checks.number(name, getattr(breaker, name), 0.001, what="a number of seconds", owner="Breaker")
    return breaker
