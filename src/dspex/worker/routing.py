"""From an ``LMSpec`` to a ``dspy.LM``: where its requests go, with which key, and what its model supports.

DSPy's own engines do the talking. They are set up so that one LM keeps one store of connections without
DSPy's cap of 100, and so that no credential or address is taken from the environment.
"""

from __future__ import annotations

from typing import Any

import dspy
from dspy.clients.engines import AsyncLM15Engine, LM15Engine
from dspy.lm15 import (
    AccessPolicy,
    EndpointSupport,
    OpenAIChatCompat,
    ProviderDefinition,
    RouterConfig,
)

from dspex.types import LMSpec
from dspex.worker.allowed import load_allowed
from dspex.worker.dspy_compat import WorkerLM
from dspex.worker.engine import Counted, CountedAsync

# Far above what one worker has slots for; the slots are the limit.
_CONNECTIONS = 4096


def build_lm(spec: LMSpec, allow_modules: list[str]) -> dspy.LM:
    """The ``dspy.LM`` that a spec describes, on engines of this room.

    Raises:
        NotAllowed: The spec names an engine outside ``allow_modules``.
        dspy.utils.exceptions.LMConfigurationError: DSPy refuses the parameters for this model.
    """
    if spec.engine is not None:
        own = load_allowed(spec.engine, allow_modules)()
        counted, counted_async = Counted(spec, None, own), CountedAsync(spec, None, own)
        _declare(counted, own, spec)
    else:
        config, provider = _routing(spec)
        counted = Counted(spec, provider, LM15Engine(config))
        counted_async = CountedAsync(spec, provider, _Direct(config))
        _declare(counted, _stock(spec), spec)
    return WorkerLM(
        spec.model,
        engine=counted,
        async_engine=counted_async,
        cache=False,
        num_retries=0,
        temperature=spec.temperature,
        max_tokens=spec.max_tokens,
        **spec.params,
    )


def _routing(spec: LMSpec) -> tuple[RouterConfig, str]:
    """Where requests go and with which key; nothing comes from the environment."""
    declared: tuple[ProviderDefinition, ...] = ()
    if spec.model.startswith("local/"):
        access = AccessPolicy(
            provider="local",
            base_url=str(spec.base_url),
            supports=EndpointSupport(complete=True, stream=True),
        )
        compat = OpenAIChatCompat(
            instruction_role="system", max_tokens_field="max_tokens", json_schema="send"
        )
        declared = (ProviderDefinition.chat(access, compat=compat, placeholder_key="none"),)
    provider = LM15Engine(RouterConfig(env={}, providers=declared)).resolve(spec.model).provider
    return (
        RouterConfig(
            env={},
            api_keys={provider: spec.api_key} if spec.api_key else None,
            base_urls={provider: spec.base_url} if spec.base_url else None,
            max_connections=_CONNECTIONS,
            providers=declared,
        ),
        provider,
    )


def _stock(spec: LMSpec) -> Any:
    """A stock LM to ask what the model supports; it is never called."""
    if spec.model.startswith("local/"):
        return _LocalAbilities
    return dspy.LM(spec.model, engine="lm15", api_key=spec.api_key or "none", api_base=spec.base_url)


class _LocalAbilities:
    supports_response_schema = True
    supported_params = frozenset(
        {"temperature", "max_tokens", "top_p", "stop", "seed", "stream", "response_format"}
    )


def _declare(engine: Any, source: Any, spec: LMSpec) -> None:
    """Copy what a model supports: DSPy asks the engine, and sends no JSON schema without an answer."""
    for name in ("supports_function_calling", "supports_reasoning", "supports_response_schema"):
        setattr(engine, name, bool(getattr(source, name, False)))
    params = frozenset(getattr(source, "supported_params", ()) or ())
    if spec.schema is not None:
        engine.supports_response_schema = spec.schema
        params |= {"response_format"} if spec.schema else frozenset()
    engine.supported_params = params


class _Direct(AsyncLM15Engine):  # type: ignore[misc]
    """The stock engine without its hop to a thread for each request.

    The hop is there because building a provider may read credentials from disk. Ours are given, so only
    the first request of each worker builds something, and that is no I/O.
    """

    async def complete(self, request: Any) -> Any:
        provider, routed = self._target(request)
        return await provider.complete(routed)
