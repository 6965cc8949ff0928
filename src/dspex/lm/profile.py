"""``LM``: a language model as users name it, and how it becomes what a worker needs."""

from __future__ import annotations

from typing import Any

import msgspec

from dspex import checks
from dspex.errors import InvalidOption
from dspex.lm import providers, secrets
from dspex.types import Limits, LMSpec, Retry, without_password

_ADAPTERS = ("auto", "chat", "json", "xml", "two_step")
# What belongs to the connection has parameters of its own; a provider would only refuse these.
_NOT_PARAMS = frozenset(
    {
        *(
            "api_base",
            "api_version",
            "azure_ad_token_provider",
            "custom_llm_provider",
            "organization",
            "project",
        ),
        *("extra_headers", "extra_query", "headers", "messages", "model_type", "provider"),
        *("cache", "fallbacks", "num_retries"),
    }
)
# The embedded model: greedy, because it is small, and with room, because a cut-off answer cannot be parsed.
_LOCAL_TEMPERATURE = 0.0
_LOCAL_MAX_TOKENS = 1024


class LM:
    """A language model and how it is asked. Two that are equal share one store of connections.

    Args:
        model: ``"provider/name"``, ``"local"``, or ``"local:/path/to/model.gguf"``.
        api_key: A key, a reference to one (``"env:NAME"``, ``"file:/path"``, ``"keyring:service/user"``), or
            a function without parameters, sync or async, that gives a fresh one. Without it the provider's
            own variable is read when a call needs it, but never sent to a ``base_url`` of yours.
        base_url: Endpoint of a server that speaks the provider's protocol.
        temperature: Sampling temperature; None leaves it to the provider (``local``: 0).
        max_tokens: The most tokens to generate; None leaves it to the provider (``local``: 1,024).
        timeout: Seconds after which one request fails with ``lm_timeout``; None leaves it to the deadline.
        adapter: How DSPy puts a signature into words: ``"chat"``, ``"json"``, ``"xml"``, ``"two_step"``, an
            import path of your own (``"shop.adapters:Terse"``), or ``"auto"``: JSON with a schema for
            ``local``, else chat as DSPy does.
        extraction_lm: The LM of the second step of ``"two_step"``; None is this one.
        engine: Import path of an engine of your own (a class whose objects have DSPy's
            ``complete(Request) -> Response``, sync or async), for gateways that speak no known protocol.
        schema: Whether the model enforces a JSON schema; None asks DSPy's table of models.
        limits: How much may be asked of it, by all workers together; None is no limit.
        retry: How one request is tried again.
        **params: Further request parameters, as the provider names them.

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
        limits: Limits | None = None,
        retry: Retry = Retry(),  # noqa: B008 (it is frozen)
        **params: Any,
    ) -> None:
        checks.text("engine", engine)
        if engine is not None and ":" not in engine:
            raise checks.refuse("engine", "an import path such as 'shop.gateway:Engine'", engine)
        self.model = _checked_model(model, known=engine is None)
        secrets.check(api_key)
        checks.text("base_url", base_url)
        if base_url is not None and not base_url.startswith(("http://", "https://")):
            raise checks.refuse(
                "base_url", "a URL such as 'http://localhost:8000/v1'", without_password(base_url)
            )
        checks.whole_number("max_tokens", max_tokens, 1, optional=True)
        if not isinstance(adapter, str) or (adapter not in _ADAPTERS and ":" not in adapter):
            raise checks.refuse("adapter", f"one of {', '.join(_ADAPTERS)} or an import path", adapter)
        if extraction_lm is not None and not isinstance(extraction_lm, LM):
            raise checks.refuse("extraction_lm", "an LM", extraction_lm)
        if schema is not None and not isinstance(schema, bool):
            raise checks.refuse("schema", "True, False or None", schema)
        if taken := sorted(_NOT_PARAMS & params.keys()):
            raise InvalidOption(f"LM does not take {', '.join(taken)}", details={"option": taken[0]})
        self.api_key = api_key
        self.base_url = base_url.rstrip("/") if base_url else None
        self.temperature = checks.number("temperature", temperature, optional=True)
        self.max_tokens = max_tokens
        self.timeout = checks.number("timeout", timeout, 0.001, optional=True)
        self.adapter = adapter
        self.extraction_lm = extraction_lm
        self.engine = engine
        self.schema = schema
        self.limits = _checked_limits(limits)
        self.retry = _checked_retry(retry)
        self.params = params
        self._key = self._encoded()

    @property
    def is_local(self) -> bool:
        """Whether it is the embedded model."""
        return self.model == "local" or self.model.startswith("local:")

    @property
    def local_path(self) -> str | None:
        """The file of the embedded model, if the caller named one."""
        return self.model.partition(":")[2] or None

    def _encoded(self) -> bytes:
        fields = {name: value for name, value in vars(self).items() if name != "extraction_lm"}
        if callable(self.api_key):
            fields["api_key"] = ["function", id(self.api_key)]  # it lives as long as this LM
        second = self.extraction_lm._key if self.extraction_lm else None
        try:
            return msgspec.msgpack.encode((fields, second), order="deterministic")
        except (TypeError, ValueError) as error:
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
            shown.append(f"base_url={without_password(self.base_url)!r}")
        names = ("temperature", "max_tokens", "timeout", "engine")
        shown += [f"{name}={value!r}" for name in names if (value := getattr(self, name)) is not None]
        return f"LM({', '.join(shown)})"

    def fetch_key(self) -> str | None:
        """The key to send, looked up now; None where none is needed.

        Where looking it up takes time (``secrets.takes_time``), ``secrets.Keys`` does it.

        Raises:
            LMNotConfigured: There is none.
        """
        if isinstance(self.api_key, str):
            return secrets.fetch(self.api_key)
        if self.is_local or self.base_url is not None or self.engine is not None:
            return None
        provider = providers.find(self.model.partition("/")[0])
        return secrets.from_environment(list(provider.variables)) if provider.variables else None

    def spec(
        self,
        api_key: str | None,
        base_url: str | None,
        extraction: LMSpec | None = None,
        *,
        gate: int = 0,
        limited: bool = False,
    ) -> LMSpec:
        """What a worker needs, with the key, the endpoint and the gate filled in."""
        local = self.is_local
        return LMSpec(
            model="local/model" if local else self.model,
            # A server without keys ignores this one; DSPy's engines want to send something.
            api_key=api_key or "none",
            base_url=base_url,
            temperature=_LOCAL_TEMPERATURE if local and self.temperature is None else self.temperature,
            max_tokens=_LOCAL_MAX_TOKENS if local and self.max_tokens is None else self.max_tokens,
            timeout=self.timeout,
            adapter=("json" if local else "chat") if self.adapter == "auto" else self.adapter,
            extraction=extraction,
            schema=self.schema,
            engine=self.engine,
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
        raise InvalidOption(
            "a model is written 'provider/name', as in 'openai/gpt-5-mini', or 'local', or "
            f"'local:/path/to/model.gguf', not {model!r}",
            details={"option": "model"},
        )
    if known:
        providers.find(provider)
    return model


def _checked_limits(limits: Any) -> Limits | None:
    if limits is None:
        return None
    if not isinstance(limits, Limits):
        raise checks.refuse("limits", "Limits(...)", limits)
    for name in limits.__struct_fields__:
        checks.whole_number(name, getattr(limits, name), 1, optional=True, owner="Limits")
    return limits


def _checked_retry(retry: Any) -> Retry:
    if not isinstance(retry, Retry):
        raise checks.refuse("retry", "a Retry", retry)
    checks.whole_number("attempts", retry.attempts, 1, owner="Retry")
    checks.number("wait", retry.wait, what="a number of seconds", owner="Retry")
    checks.number("max_wait", retry.max_wait, what="a number of seconds", owner="Retry")
    return retry
