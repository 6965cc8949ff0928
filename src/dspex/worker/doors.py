"""Doors: what lm15, DSPy's HTTP engine, calls a provider, where it is asked and how it is spelled there.

lm15 knows most providers. For those that speak OpenAI's chat completions at an address of their own, and for
Azure's classic addresses, the door is declared here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dspy._vendor.lm15.cloud.chains import ChainContext, credential_provider
from dspy._vendor.lm15.registry import lookup
from dspy.clients.engines import LM15Engine
from dspy.lm15 import (
    AccessPolicy,
    EndpointSupport,
    OpenAIChatCompat,
    ProviderDefinition,
    RouterConfig,
)

from dspex.errors import LMNotConfigured, LMUnsupported
from dspex.types import LMSpec

# Servers that lm15 does not know, by what their model names begin with: they speak plain chat completions.
_PLAIN = frozenset({"local", "mistral", "together_ai", "fireworks_ai", "lm_studio", "custom_openai"})
_CHAT = OpenAIChatCompat(
    instruction_role="system", max_tokens_field="max_tokens", json_schema="send", cache_control="none"
)
_COMPLETES = EndpointSupport(complete=True, stream=True)
_AZURE_DEPLOYMENT = "azure-deployment"
# The name of a file that exists only in memory.
_GIVEN = "/vertex_credentials.json"


@dataclass(frozen=True)
class Door:
    """One way to a model.

    Attributes:
        provider: What lm15 calls it.
        model: What the provider calls the model.
        base_url: Where it is asked; None is where lm15 knows it to be.
        credential: The key, or a function that gives a token.
        declared: Its definition, where lm15 has none.
        settings: What its address is made of.
        prices: Where DSPy's map of models lists it; None is where DSPy looks by itself.
    """

    provider: str
    model: str
    base_url: str | None = None
    credential: Any = field(default=None, repr=False)
    declared: tuple[ProviderDefinition, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    prices: tuple[str, ...] | None = None

    @property
    def target(self) -> str:
        """The model as lm15 writes it."""
        return f"{self.provider}:{self.model}"

    def config(self, **transport: Any) -> RouterConfig:
        """What an engine is made from. Nothing comes from the environment."""
        return RouterConfig(
            env={},
            api_keys={self.provider: self.credential} if self.credential else None,
            base_urls={self.provider: self.base_url} if self.base_url else None,
            settings={self.provider: self.settings} if self.settings else None,
            providers=self.declared,
            **transport,
        )


def find(spec: LMSpec) -> Door:
    """The door that a spec names.

    Raises:
        LMNotConfigured: A file with credentials cannot be read.
        LMUnsupported: The provider has the model, and nothing here can ask it.
    """
    prefix, _, model = spec.model.partition("/")
    options = dict(spec.connection.options)
    if prefix in _PLAIN:
        return _plain(spec, prefix, model)
    if prefix == "azure" and "api_version" in options:
        return _azure_deployment(spec, model)
    if prefix == "vertex_ai":
        return _vertex(spec, model, options)
    resolution = LM15Engine(RouterConfig(env={})).resolve(spec.model)
    return Door(resolution.provider, resolution.model, spec.base_url, spec.api_key)


def _plain(spec: LMSpec, prefix: str, model: str) -> Door:
    provider = prefix.replace("_", "-")
    access = AccessPolicy(provider=provider, base_url=str(spec.base_url), supports=_COMPLETES)
    declared = ProviderDefinition.chat(access, compat=_CHAT)
    return Door(provider, model, credential=spec.api_key, declared=(declared,), prices=(prefix,))


def _azure_deployment(spec: LMSpec, model: str) -> Door:
    """The address that takes an ``api-version``: it names the deployment. lm15 knows the later one."""
    endpoint = str(spec.base_url).removesuffix("/v1").removesuffix("/openai")
    access = AccessPolicy(
        provider=_AZURE_DEPLOYMENT,
        base_url=f"{endpoint}/openai/deployments/{quote(model, safe='')}",
        auth_scheme=("api-key", "bearer"),
        supports=_COMPLETES,
    )
    declared = ProviderDefinition.chat(access, compat=OpenAIChatCompat.preset("openai"))
    return Door(_AZURE_DEPLOYMENT, model, credential=spec.api_key, declared=(declared,), prices=("azure",))


def _vertex(spec: LMSpec, model: str, options: dict[str, str]) -> Door:
    if "/" in model:
        raise LMUnsupported(
            f"vertex serves Gemini and Claude models; {model!r} is asked by LM('vertex/{model}', "
            "engine='litellm') where google-auth is installed",
            details={"model": model},
        )
    provider = "vertex-anthropic" if model.startswith("claude") else "vertex"
    names = {"vertex_project": "project", "vertex_location": "location"}
    settings = {names[name]: value for name, value in options.items() if name in names}
    return Door(provider, model, spec.base_url, spec.api_key or _google(spec, provider), settings=settings)


def _google(spec: LMSpec, provider: str) -> Any:
    """What gives an access token: the credentials of the spec, or else what this machine has."""
    access = lookup(provider).access
    given = dict(spec.connection.credentials).get("vertex_credentials")
    if given is None:
        return credential_provider(access, ChainContext.online(os.environ))
    if given.lstrip().startswith("{"):
        files: dict[str, str] | None = {_GIVEN: given}
        file = _GIVEN
    else:
        files, file = None, str(Path(given).expanduser())
        if not os.access(file, os.R_OK):
            raise LMNotConfigured(
                "the file that vertex_credentials, or GOOGLE_APPLICATION_CREDENTIALS, names cannot be read",
                details={"variable": "GOOGLE_APPLICATION_CREDENTIALS"},
            )
    # No other place is looked at: not a home folder, not a signed-in developer.
    environment = {"GOOGLE_APPLICATION_CREDENTIALS": file, "HOME": "/nonexistent"}
    return credential_provider(access, replace(ChainContext.online(environment, files=files), run=None))
