"""Every option, with its meaning, default and unit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from dspex import checks
from dspex.errors import InvalidOption

KiB = 1024
MiB = 1024 * KiB


class PoolOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one pool of workers is run.

    Attributes:
        workers: How many worker processes there are; None is one per core that this process may use.
        min: The fewest workers that are kept while nobody calls; None is ``workers``.
        max: The most workers; the pool grows up to it while calls wait, and shrinks again when workers have
            nothing to do. None is ``workers``. With ``isolation="call"`` None of both is from 0 to 32, or to
            eight per core where that is more.
        slots: Calls that one worker runs at once. An LM call waits more than it computes, so this is
            far above one. With ``isolation="call"`` it is one.
        max_queue: Calls that may wait for a free slot; one more is refused with ``pool_saturated``.
        queue_timeout: Seconds that a call may wait for a free slot before ``queue_timeout``; None
            waits until its own deadline.
        max_share: The largest part of the pool's slots, above 0 and up to 1, that the calls of one tenant
            with one LM may have at once, and of ``max_queue`` that may wait; None lets one have all that
            nobody else waits for.
        isolated: Name of the pool where calls run that cannot share a process: programs of your own, and
            calls that may have killed their worker. That pool always has ``isolation="call"``.
        isolation: ``"shared"`` runs many calls in each worker; ``"tenant"`` does so, too, and gives each
            tenant workers of its own, up to ``max`` of them, which start when it calls and end when it does
            not any more; ``"call"`` starts a worker for each call, runs it on that worker's main thread, and
            ends the worker with it.
        grace: Seconds between a deadline and the end of a worker that has not stopped the work.
        drain_limit: Seconds that the other calls of such a worker have to end well before it is killed. A
            worker whose event loop is blocked is killed at once.
        max_reruns: How many times a call that is safe to repeat is run again after its worker was
            lost. Workers that were killed for another call's deadline are not counted.
        max_calls: Calls after which a worker is replaced; None never. This and the next two vary by up to a
            tenth from worker to worker, so that not all are replaced at once.
        max_age: Seconds after which a worker is replaced; None never.
        max_rss: Bytes of resident memory above which a worker is replaced when its calls have ended; None
            never. One that comes to twice as much in the middle of a call is killed.
        pass_env: Environment variables that workers get beside the basic ones.
        preload: Modules that workers import before their first call.
    """

    workers: int | None = None
    min: int | None = None
    max: int | None = None
    slots: int = 64
    max_queue: int = 1000
    queue_timeout: float | None = None
    max_share: float | None = None
    isolated: str = "isolated"
    isolation: Literal["shared", "tenant", "call"] = "shared"
    grace: float = 0.5
    drain_limit: float = 2.0
    max_reruns: int = 3
    max_calls: int | None = None
    max_age: float | None = None
    max_rss: int | None = None
    pass_env: Iterable[str] = ()
    preload: Iterable[str] = ()

    def __post_init__(self) -> None:
        for name, least in {
            "workers": 1,
            "min": 0,
            "max": 1,
            "slots": 1,
            "max_queue": 0,
            "max_reruns": 0,
        }.items():
            value = getattr(self, name)
            optional = name in {"workers", "min", "max"}
            checks.whole_number(name, value, least, optional=optional, owner="PoolOptions")
        for name, least in {"max_calls": 1, "max_rss": MiB}.items():
            checks.whole_number(name, getattr(self, name), least, optional=True, owner="PoolOptions")
        for name in ("grace", "drain_limit", "queue_timeout", "max_age"):
            optional = name in {"queue_timeout", "max_age"}
            value = getattr(self, name)
            checks.number(name, value, what="a number of seconds", optional=optional, owner="PoolOptions")
        if self.max_share is not None and not 0 < (checks.number("max_share", self.max_share) or 0.0) <= 1:
            raise checks.refuse("max_share", "above 0 and at most 1", self.max_share, "PoolOptions")
        checks.text("isolated", self.isolated, optional=False, owner="PoolOptions")
        if self.isolation not in {"shared", "tenant", "call"}:
            raise checks.refuse("isolation", "'shared', 'tenant' or 'call'", self.isolation, "PoolOptions")
        self._check_size()
        for name in ("pass_env", "preload"):
            checked = checks.names(name, getattr(self, name), owner="PoolOptions")
            msgspec.structs.force_setattr(self, name, checked)

    def _check_size(self) -> None:
        sizes = [size for size in (self.min, self.workers, self.max) if size is not None]
        if sizes != sorted(sizes):
            raise InvalidOption(
                "PoolOptions takes min <= workers <= max, not "
                f"min={self.min}, workers={self.workers}, max={self.max}",
                details={"option": "max" if self.max is not None else "min"},
            )

    def size(self, cores: int) -> tuple[int, int]:
        """The fewest and the most workers of a pool with these options.

        Args:
            cores: How many cores this process may use.
        """
        if self.isolation == "call" and self.workers is None:
            most = self.max or max(self.min or 1, 32, 8 * cores)
            return self.min or 0, most
        usual = self.workers or cores
        least = min(usual, self.max or usual) if self.min is None else self.min
        return least, max(usual, least) if self.max is None else self.max


class RuntimeOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What holds for a whole runtime.

    Attributes:
        default_lm: The LM of calls that name none: a model (``"openai/gpt-5-mini"``), ``"local"``,
            ``"local:/path.gguf"``, or a profile's name.
        allow_modules: Import paths, each with all below it, that programs, commands, adapters and engines of
            the user may come from. Nothing else is ever imported on a caller's word.
        python: The interpreter of the workers; None is the one that runs this process.
        local_model: Path of the GGUF file behind ``lm="local"``; None is the packaged model.
        max_payload: The largest arguments of one call in bytes.
        max_result: The largest result of one call in bytes.
        show_unsendable: Whether an ``Unsendable`` in a result has the ``repr`` of what it stands for. That is
            code of any class, and may say anything.
        sandbox_seconds: How long a block of code that a model wrote may compute, in its sandbox.
        sandbox_memory: Bytes that the values of such code may have.
        allow_local_interpreter: Whether calls may name ``sandbox="local"``, which runs such code as this
            user, with all that this user may do. It is no sandbox.
        store: Where sessions are kept: ``"memory"``, a file, a database URL, or a reference to one
            (``"env:DATABASE_URL"``). In a settings file a path goes from the file's own directory on.
        max_sessions: How many sessions there may be, of all tenants; one more is refused with
            ``session_quota``.
        max_sessions_per_tenant: How many of them one tenant may have, and how many those without a tenant.
        max_variable: The largest value of one variable of a session in bytes.
        max_turn: Bytes of a turn's inputs, and of its outputs, that are kept; of larger ones their shape.
        history_turns: Turns of its session that a call with a ``dspy.History`` input gets, at most; the
            newest are kept.
        history_tokens: Tokens that these turns may have, about: four bytes are counted as one.
        cache_ttl: Seconds for which an answer in a cache is good.
        cache_size: Bytes of memory that cached answers may have.
        cache_file_size: Bytes that the answers in a cache's file may have.
        telemetry: Whether calls are counted for ``runtime.metrics()`` and ``runtime.insights()``.
        traces: Whether calls are traced with OpenTelemetry; None when the application has set a tracer
            provider. True refuses to open where the extra ``otel`` is missing.
        trace_content: Whether spans have what was said: inputs, outputs, messages, arguments and results of
            tools, generated code.
        log: How log lines are written to standard error, from level ``info`` on: ``"json"`` or ``"text"``;
            None leaves them to the application.
    """

    default_lm: str | None = None
    allow_modules: Iterable[str] = ()
    python: str | None = None
    local_model: str | None = None
    max_payload: int = 512 * MiB
    max_result: int = 512 * MiB
    show_unsendable: bool = False
    sandbox_seconds: float = 10.0
    sandbox_memory: int = 512 * MiB
    allow_local_interpreter: bool = False
    store: str = "memory"
    max_sessions: int = 100_000
    max_sessions_per_tenant: int = 10_000
    max_variable: int = MiB
    max_turn: int = 256 * KiB
    history_turns: int = 50
    history_tokens: int = 8000
    cache_ttl: float = 3600.0
    cache_size: int = 64 * MiB
    cache_file_size: int = 1024 * MiB
    telemetry: bool = True
    traces: bool | None = None
    trace_content: bool = False
    log: Literal["json", "text"] | None = None

    def __post_init__(self) -> None:
        checked = checks.names("allow_modules", self.allow_modules, owner="Settings")
        msgspec.structs.force_setattr(self, "allow_modules", checked)
        for name in ("default_lm", "python", "local_model"):
            checks.text(name, getattr(self, name), owner="Settings")
        for name in ("max_payload", "max_result"):
            checks.whole_number(name, getattr(self, name), 1024, owner="Settings")
        for name in ("show_unsendable", "telemetry"):
            checks.flag(name, getattr(self, name), owner="Settings")
        seconds = checks.number("sandbox_seconds", self.sandbox_seconds, 0.1, owner="Settings")
        msgspec.structs.force_setattr(self, "sandbox_seconds", seconds)
        checks.whole_number("sandbox_memory", self.sandbox_memory, 16 * MiB, owner="Settings")
        checks.flag("allow_local_interpreter", self.allow_local_interpreter, owner="Settings")
        checks.text("store", self.store, optional=False, owner="Settings")
        if self.traces is not None:
            checks.flag("traces", self.traces, owner="Settings")
        checks.flag("trace_content", self.trace_content, owner="Settings")
        if self.log not in (None, "json", "text"):
            raise checks.refuse("log", "'json' or 'text'", self.log, "Settings")
        for name, least in {
            "max_sessions": 1,
            "max_sessions_per_tenant": 1,
            "max_variable": 1024,
            "max_turn": 1024,
            "history_turns": 0,
            "history_tokens": 0,
            "cache_size": 0,
            "cache_file_size": 0,
        }.items():
            checks.whole_number(name, getattr(self, name), least, owner="Settings")
        ttl = checks.number("cache_ttl", self.cache_ttl, 0.001, owner="Settings")
        msgspec.structs.force_setattr(self, "cache_ttl", ttl)


class LMOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A profile of a language model by its name, as ``dspex.LM`` takes it.

    Any further key is a request parameter and goes to the provider under its own name. Here only the kind
    of a value is checked; ``LM`` checks the rest when a runtime is made.

    Attributes:
        model: ``"provider/name"``, ``"local"``, or ``"local:/path/to/model.gguf"``. A profile needs one.
        api_key: Where the key is: ``"env:NAME"``, ``"file:/path"`` or ``"keyring:service/user"``. A key
            itself is refused in a file.
        base_url: Endpoint of a server that speaks the provider's protocol.
        temperature: Sampling temperature.
        max_tokens: The most tokens to generate.
        timeout: Seconds after which one request fails with ``lm_timeout``.
        adapter: How DSPy puts a signature into words: ``"chat"``, ``"json"``, ``"xml"``, ``"two_step"``,
            ``"auto"``, or an import path.
        extraction_lm: The LM of the second step of ``"two_step"``: another profile's name, or a model.
        engine: ``"litellm"``, which asks through LiteLLM, or the import path of an engine of your own.
        schema: Whether the model enforces a JSON schema.
        cache: Whether answers are kept: true, false, or the path of a file.
    """

    model: str
    api_key: str | None = None
    base_url: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    timeout: float | None = None
    adapter: str = "auto"
    extraction_lm: str | None = None
    engine: str | None = None
    schema: bool | None = None
    cache: bool | str | None = None
