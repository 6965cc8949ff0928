"""Plain values that the caller's process and the workers both know, so that a caller needs no DSPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class Retry(msgspec.Struct, frozen=True):
    """How one LM request is tried again after a failure that may pass.

    Attributes:
        attempts: Requests in all, the first included; 1 never tries again.
        wait: Seconds before the second attempt; it doubles each time, with jitter.
        max_wait: The longest of these waits in seconds. A provider's own ``Retry-After`` is honoured
            as it is, up to the call's deadline.
    """

    attempts: int = 3
    wait: float = 0.5
    max_wait: float = 30.0


class Limits(msgspec.Struct, frozen=True):
    """How much may be asked of one LM. None is no limit.

    A limit holds once for all workers of a runtime, and for every request that a module makes: retries and
    the second request after an answer that could not be read included. Calls that have to wait do so in the
    queue.

    Attributes:
        requests_per_minute: Requests in any 60 seconds.
        tokens_per_minute: Tokens in any 60 seconds, sent and generated together. A request counts with an
            estimate when it is sent, and with what the provider counted once it has answered; one that is
            larger than the limit is sent alone.
        in_flight: Requests at the same time.
        across_tenants: Whether all tenants together may ask that much, as where they share one key; else
            each of them may.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    in_flight: int | None = None
    across_tenants: bool = False

    @property
    def numbers(self) -> dict[str, int]:
        """The limits that there are, by name."""
        named = ("requests_per_minute", "tokens_per_minute", "in_flight")
        found = {name: getattr(self, name) for name in named}
        return {name: limit for name, limit in found.items() if limit is not None}


class Breaker(msgspec.Struct, frozen=True):
    """When an endpoint that fails is left alone for a while.

    It opens when at least ``failures`` requests of the last ``window`` seconds failed with ``lm_unavailable``
    or ``lm_timeout``, and these are at least ``share`` of all that ended. Then every request is refused at
    once with ``lm_circuit_open``. After ``pause`` seconds one request is let through: when it is answered
    everything is as before, and when it fails the pause begins anew.

    There is one breaker for each endpoint, model and choice of these numbers, however many profiles name it.

    Attributes:
        failures: The fewest failures that open it.
        share: The part of the requests that they have to be, above 0 and up to 1.
        window: Seconds for which the end of a request counts.
        pause: Seconds between opening and the one request that tries.
    """

    failures: int = 10
    share: float = 0.5
    window: float = 30.0
    pause: float = 10.0


class Budget(msgspec.Struct, frozen=True):
    """How much may be spent. None is no limit.

    Attributes:
        tokens: Tokens, sent and generated together.
        cost: US dollars, by the prices that DSPy knows.
    """

    tokens: int | None = None
    cost: float | None = None


class FallenBack(msgspec.Struct, frozen=True):
    """An LM that did not answer, so that the next one was asked.

    Attributes:
        model: Its model.
        code: The code of its error.
        message: What that said.
    """

    model: str
    code: str
    message: str


def without_password(url: str) -> str:
    """A URL as it may be shown: what stands before an ``@`` is a user's name and password."""
    scheme, separator, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{'***@' if '@' in host else ''}{host.rpartition('@')[2]}{slash}{path}"


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """How a provider is reached besides by address and key: everything looked up.

    Attributes:
        options: Names and values of what is no secret (``aws_region_name``, ``api_version``).
        credentials: Names and values of credentials. They are in memory only, and not in the ``repr``.
        headers: Headers of every request, beside the engine's own.
        query: What every request's address has after the ``?``.
    """

    options: tuple[tuple[str, str], ...] = ()
    credentials: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    query: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return f"Connection(options={self.options!r})"


class LMSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A language model as a worker needs it: everything resolved, nothing to look up.

    Attributes:
        model: Provider and model as DSPy writes them (``"openai/gpt-5-mini"``).
        name: The same as the user wrote it, if that is another; it is what is shown.
        api_key: The key itself. It is in memory only, and not in the ``repr``.
        base_url: Endpoint to use in place of the provider's own.
        temperature: Sampling temperature; None leaves it to the provider.
        max_tokens: The most tokens to generate; None leaves it to the provider.
        timeout: Seconds that one request may take; None leaves it to the call's deadline.
        adapter: ``"chat"``, ``"json"``, ``"xml"``, ``"two_step"``, or an import path of the operator's own.
        extraction: The LM of the second step of ``"two_step"``; None is this one.
        schema: Whether the model enforces a JSON schema, where the caller knows better than DSPy's
            table of models; None asks that table.
        engine: Import path of the operator's own engine (``"package.module:Class"``); None is HTTP.
        litellm: Whether requests go through LiteLLM, in workers that have it loaded.
        connection: How the provider is reached besides by address and key.
        retry: How one request is tried again.
        gate: Number of the gate that its requests pass in the supervisor.
        limited: Whether each request has to ask at the gate; else it is only told of them.
        params: Further request parameters, as the provider names them.
    """

    model: str
    name: str | None = None
    api_key: str | None = None
    base_url: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    timeout: float | None = None
    adapter: str = "chat"
    extraction: LMSpec | None = None
    schema: bool | None = None
    engine: str | None = None
    litellm: bool = False
    connection: Connection = Connection()
    retry: Retry = Retry()
    gate: int = 0
    limited: bool = False
    params: dict[str, Any] = {}

    @property
    def needs_litellm(self) -> bool:
        """Whether one of its steps goes through LiteLLM."""
        return self.litellm or (self.extraction is not None and self.extraction.litellm)

    @property
    def asked(self) -> str:
        """The model as the user knows it."""
        return self.name or self.model

    @property
    def secrets(self) -> list[str]:
        """What must not be shown of it: keys, and the values of its headers and its query."""
        connection = self.connection
        pairs = (*connection.credentials, *connection.headers, *connection.query)
        own = [self.api_key] if self.api_key not in {None, "none"} else []
        return [text for text in (*own, *(value for _, value in pairs)) if text] + (
            self.extraction.secrets if self.extraction else []
        )

    def __repr__(self) -> str:
        return f"LMSpec(model={self.model!r}, base_url={self.base_url!r})"


class LMReference(msgspec.Struct, frozen=True, omit_defaults=True):
    """An LM as it is stored; one of the three is set.

    Attributes:
        name: A profile's or a model's name.
        options: The arguments of ``LM``.
        held: Under which it is in the memory of the runtime that stored it.
        model: Its model, for people.
    """

    name: str | None = None
    options: dict[str, Any] | None = None
    held: str | None = None
    model: str | None = None


class Usage(msgspec.Struct, frozen=True):
    """Tokens that were counted by the provider.

    Attributes:
        prompt_tokens: Tokens sent.
        completion_tokens: Tokens generated.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Both together."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens
        )


class LMRequest(msgspec.Struct, frozen=True):
    """One request that a call made to a language model.

    Attributes:
        model: The model that answered, or that was asked when none did.
        usage: Its tokens; zero when the request failed or the provider did not say.
        seconds: How long it took, waits between attempts included.
        status: ``"ok"``, or the code of the error it ended with (``"lm_rate_limited"``).
        retries: How many times it was sent again.
        cost: Estimated US dollars from DSPy's price map, whichever engine asked; None when the price is
            unknown, 0.0 for the embedded model, which nobody bills.
        finish: Why the model stopped: ``"stop"``, ``"length"`` (the answer was cut off at ``max_tokens``) or
            another word of its provider's; None when it failed.
        asked: The model that was asked, as its LM is named (``"openai/gpt-5-mini"``); providers answer with
            names of their own. Empty when nobody said.
    """

    model: str
    usage: Usage
    seconds: float
    status: str
    retries: int = 0
    cost: float | None = None
    finish: str | None = None
    asked: str = ""


class SpanRecord(msgspec.Struct, frozen=True, array_like=True):
    """What a worker tells of a span: once when it begins, if somebody has to know then, and when it ends.

    Attributes:
        number: Its number in its call.
        parent: Number of the span that it is in; 0 is the worker's run of the call.
        name: Its name.
        started: When it began, on the machine's monotonic clock in seconds.
        ended: When it ended, on the same clock; None while it goes on.
        attributes: What is known of it by now.
        error: What it failed with: a code, or the name of an exception's class; None when it did not.
        events: What happened within it, each as name, second on the same clock, and attributes.
        client: Whether it waits for another system's answer.
    """

    number: int
    parent: int
    name: str
    started: float
    ended: float | None = None
    attributes: dict[str, Any] = {}
    error: str | None = None
    events: list[tuple[str, float, dict[str, Any]]] = []
    client: bool = False


class ToolSpec(msgspec.Struct, frozen=True, array_like=True):
    """A tool as a worker needs it: what the model is told of it, and how it is called.

    Attributes:
        name: Its name.
        description: What the model is told that it does.
        parameters: The JSON Schema of each of its arguments by name.
        takes_any: Whether it takes arguments by any other name as well.
        path: Import path of a function that the worker loads; None is a function of the caller's, which is
            called back.
        idempotent: Whether calling it twice does no more than calling it once.
        fatal: Whether its failure ends the call, instead of being told to the model.
        approve: Whether each call of it is put to the caller first.
        mcp: Whether it is a tool of an MCP server, which the caller calls.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    takes_any: bool = False
    path: str | None = None
    idempotent: bool = False
    fatal: bool = False
    approve: bool = False
    mcp: bool = False


class SandboxRules(msgspec.Struct, frozen=True, array_like=True):
    """What code that a model wrote may take, in whichever sandbox.

    Attributes:
        seconds: How long one block may compute; waiting for a tool or for the model does not count.
        memory: Bytes that its values may have.
        output: Characters that it may print, or give, in one block.
        local: Whether the operator allows ``sandbox="local"``, which is none.
    """

    seconds: float = 10.0
    memory: int = 512 * 1024 * 1024
    output: int = 1_000_000
    local: bool = False


class ModuleTraits(msgspec.Struct, frozen=True):
    """What ``dspex.module`` says of a program.

    Attributes:
        shared: Whether it may run in a worker that runs other calls as well.
        idempotent: Whether running it twice does no more than running it once.
    """

    shared: bool = False
    idempotent: bool = False


def module(*, shared: bool = False, idempotent: bool = False) -> Callable[[type[T]], type[T]]:
    """Say of a ``dspy.Module`` of your own what cannot be seen from outside.

    Without it, each call runs isolated, in a worker of its own, and is not run again when that is lost.

    Example:
        >>> @module(shared=True, idempotent=True)
        ... class Router:
        ...     pass

    Args:
        shared: Calls may run in workers that run other calls as well, many at once: the program awaits its
            LM (``aforward``), keeps nothing of a call in ``self``, and blocks nothing.
        idempotent: A call whose worker was lost may simply run again.
    """

    def mark(program: type[T]) -> type[T]:
        program.__dspex__ = ModuleTraits(shared, idempotent)  # type: ignore[attr-defined]
        return program

    return mark


#: Commands that modules of the user have registered in this process: name → function.
commands: dict[str, Callable[..., Any]] = {}


def command(name: str) -> Callable[[F], F]:
    """Register a function as a command that the workers answer by that name.

    The module that holds it has to be allowed (``Settings(allow_modules=["shop.jobs"])``). Arguments
    arrive by keyword. What is returned goes back as a value; a part that cannot be sent arrives as
    ``Unsendable``. An ``async`` function runs
    on the worker's event loop, any other one in a thread of its own.

    Example:
        >>> @command("shop.total")
        ... def total(prices: list[float]) -> float:
        ...     return sum(prices)

    Args:
        name: What callers ask for, as in ``runtime.pool("general").execute(name, {...})``.
    """

    def register(function: F) -> F:
        commands[name] = function
        return function

    return register
