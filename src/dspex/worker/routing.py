"""From an ``LMSpec`` to a ``dspy.LM``: where its requests go, with which key, and what its model supports.

DSPy's own engines do the talking. They are set up so that one LM keeps one store of connections without
DSPy's cap of 100, and so that no credential or address is taken from the environment.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import dspy
import dspy.clients.capabilities
from dspy._vendor.lm15.transports import (
    ConnectTimeout,
    ReadTimeout,
    StdlibAsyncTransport,
    StdlibTransport,
    Timeouts,
)
from dspy.clients.engines import AsyncLM15Engine, LM15Engine
from dspy.lm15 import TimeoutError as RequestTimeout
from dspy.lm15 import TransportError

from dspex.types import LMSpec
from dspex.worker import doors
from dspex.worker.allowed import load_allowed
from dspex.worker.doors import Door
from dspex.worker.dspy_compat import WorkerLM
from dspex.worker.engine import Counted, CountedAsync

# Far above what one worker has slots for; the slots are the limit.
_CONNECTIONS = 4096
_ABILITIES = ("supports_function_calling", "supports_reasoning", "supports_response_schema")
# Other names under which the map of models lists what LiteLLM reaches by one.
_MORE_PRICES = {"bedrock": ("bedrock_converse",), "vertex_ai": ("vertex_ai-language-models",)}
_CHAT_PARAMS = frozenset(
    {
        *("temperature", "max_tokens", "max_completion_tokens", "top_p", "stop", "seed", "stream"),
        *("logprobs", "top_logprobs", "presence_penalty", "frequency_penalty", "logit_bias", "user"),
    }
)


def build_lm(spec: LMSpec, allow_modules: list[str]) -> dspy.LM:
    """The ``dspy.LM`` that a spec describes, on engines of this room.

    Raises:
        NotAllowed: The spec names an engine outside ``allow_modules``.
        LMNotConfigured: A file with credentials cannot be read.
        LMUnsupported: The provider has the model, and nothing here can ask it.
        dspy.utils.exceptions.LMConfigurationError: DSPy refuses the parameters for this model.
    """
    if spec.engine is not None:
        own = load_allowed(spec.engine, allow_modules)()
        counted, counted_async = Counted(spec, None, own), CountedAsync(spec, None, own)
        _declare(counted, own, spec)
    elif spec.litellm:
        from dspex.worker import litellm_engine

        provider = spec.model.partition("/")[0]
        prices = (provider, *_MORE_PRICES.get(provider, ()))
        # By whatever name, what LiteLLM counts is what OpenAI counts.
        counted = Counted(spec, "litellm", litellm_engine.Engine(spec), prices)
        counted_async = CountedAsync(spec, "litellm", litellm_engine.AsyncEngine(spec), prices)
        _declare(counted, dspy.LM(spec.model, engine="litellm"), spec)
    else:
        door = doors.find(spec)
        counted = Counted(spec, door.provider, _Direct(spec, door), door.prices)
        counted_async = CountedAsync(spec, door.provider, _AsyncDirect(spec, door), door.prices)
        _declare(counted, _described(spec, door), spec)
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


def _described(spec: LMSpec, door: Door) -> Any:
    """What says what the model supports: a stock LM, which is never called, or the map of models alone."""
    if door.declared:
        return _Listed(door)
    # Names that DSPy's LM knows by itself; Vertex it knows as lm15 writes it.
    model = door.target if spec.model.startswith("vertex_ai/") else spec.model
    return dspy.LM(model, engine="lm15", api_key="none")


class _Listed:
    """What the map of models says of one that only a declared door leads to."""

    def __init__(self, door: Door) -> None:
        info = dspy.clients.capabilities.model_info(door.provider, door.model, namespaces=door.prices)
        for name in _ABILITIES:
            setattr(self, name, info.get(name) is True)
        self.supports_response_schema = door.provider == "local" or info.get(_ABILITIES[2]) is True
        self.supported_params = _CHAT_PARAMS
        if self.supports_response_schema:
            self.supported_params |= {"response_format"}
        if info.get("supports_function_calling") is True:
            self.supported_params |= {"response_format", "tools", "tool_choice", "parallel_tool_calls"}
        if info.get("supports_reasoning") is True:
            self.supported_params |= {"reasoning_effort"}


def _declare(engine: Any, source: Any, spec: LMSpec) -> None:
    """Copy what a model supports: DSPy asks the engine, and sends no JSON schema without an answer."""
    for name in _ABILITIES:
        setattr(engine, name, bool(getattr(source, name, False)))
    params = frozenset(getattr(source, "supported_params", ()) or ())
    if spec.schema is not None:
        engine.supports_response_schema = spec.schema
        params |= {"response_format"} if spec.schema else frozenset()
    engine.supported_params = params


class _Addition:
    """Headers and a query that every request of one LM has beside the engine's own."""

    def __init__(self, spec: LMSpec) -> None:
        self.headers = dict(spec.connection.headers)
        options = dict(spec.connection.options)
        query = dict(spec.connection.query)
        if "api_version" in options:
            query["api-version"] = options["api_version"]
        self.query = urlencode(query)

    def __bool__(self) -> bool:
        return bool(self.headers or self.query)

    def __call__(self, request: Any) -> Any:
        replaced = {name.lower() for name in self.headers}
        kept = [row for row in request.headers if row[0].lower() not in replaced]
        url = request.url
        if self.query:
            url += ("&" if "?" in url else "?") + self.query
        return replace(request, url=url, headers=[*kept, *self.headers.items()])


class _Transport(StdlibTransport):  # type: ignore[misc]
    """lm15's transport, with an addition to every request."""

    def __init__(self, addition: _Addition, seconds: float | None) -> None:
        limits = {} if seconds is None else {"connect_timeout": seconds, "read_timeout": seconds}
        super().__init__(max_connections=_CONNECTIONS, **limits)
        self._addition = addition

    def stream(self, request: Any) -> Any:
        return super().stream(self._addition(request))


class _AsyncTransport(StdlibAsyncTransport):  # type: ignore[misc]
    """The same for event loops."""

    def __init__(self, addition: _Addition) -> None:
        super().__init__(max_connections=_CONNECTIONS)
        self._addition = addition

    def stream(self, request: Any) -> Any:
        return super().stream(self._addition(request))


class _Direct(LM15Engine):  # type: ignore[misc]
    """The stock engine, which asks one model through one door."""

    def __init__(self, spec: LMSpec, door: Door) -> None:
        addition, seconds = _Addition(spec), spec.timeout
        own: dict[str, Any] = {"max_connections": _CONNECTIONS}
        if addition:
            own = {"transport": _Transport(addition, seconds)}
        elif seconds is not None:
            # Nothing else ends a request in a thread: it is the longest wait for the next bytes here.
            own["timeouts"] = Timeouts(connect=seconds, read=seconds)
        super().__init__(door.config(**own))
        self._seconds = seconds
        self._resolution = super().resolve(door.target)

    def resolve(self, model: str) -> Any:  # noqa: ARG002 (an LM has one)
        return self._resolution

    def complete(self, request: Any) -> Any:
        try:
            return super().complete(request)
        except TransportError as error:
            if self._seconds is None or not isinstance(
                error.__cause__ or error, ConnectTimeout | ReadTimeout
            ):
                raise
            raise RequestTimeout(f"no answer within the profile's timeout of {self._seconds:g} s") from error

    def close(self) -> None:
        super().close()
        if self.config.transport is not None:
            self.config.transport.close()


class _AsyncDirect(AsyncLM15Engine):  # type: ignore[misc]
    """The same for event loops, without the stock engine's hop to a thread for each request.

    The hop is there because building a provider may read credentials from disk. Ours are given, so only
    the first request of each worker builds something, and that is no I/O.
    """

    def __init__(self, spec: LMSpec, door: Door) -> None:
        addition = _Addition(spec)
        own = {"transport": _AsyncTransport(addition)} if addition else {"max_connections": _CONNECTIONS}
        super().__init__(door.config(**own))
        self._resolution = super().resolve(door.target)

    def resolve(self, model: str) -> Any:  # noqa: ARG002 (an LM has one)
        return self._resolution

    async def complete(self, request: Any) -> Any:
        provider, routed = self._target(request)
        return await provider.complete(routed)

    async def aclose(self) -> None:
        await super().aclose()
        if self.config.transport is not None:
            await self.config.transport.aclose()
