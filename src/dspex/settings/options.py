"""Every option, with its meaning, default and unit."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from dspex import checks

MiB = 1024 * 1024


class PoolOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one pool of workers is run.

    Attributes:
        workers: How many worker processes; None is one per core that this process may use.
        slots: Calls that one worker runs at once. An LM call waits more than it computes, so this is
            far above one.
        max_queue: Calls that may wait for a free slot; one more is refused with ``pool_saturated``.
        queue_timeout: Seconds that a call may wait for a free slot before ``queue_timeout``; None
            waits until its own deadline.
        grace: Seconds between a deadline and the kill of a worker that has not stopped the work.
        max_reruns: How many times a call that is safe to repeat is run again after its worker was
            lost. Workers that were killed for another call's deadline are not counted.
        pass_env: Environment variables that workers get beside the basic ones.
        preload: Modules that workers import before their first call.
    """

    workers: int | None = None
    slots: int = 64
    max_queue: int = 1000
    queue_timeout: float | None = None
    grace: float = 0.5
    max_reruns: int = 3
    pass_env: Iterable[str] = ()
    preload: Iterable[str] = ()

    def __post_init__(self) -> None:
        for name, least in {"workers": 1, "slots": 1, "max_queue": 0, "max_reruns": 0}.items():
            value = getattr(self, name)
            checks.whole_number(name, value, least, optional=name == "workers", owner="PoolOptions")
        for name in ("grace", "queue_timeout"):
            value = getattr(self, name)
            optional = name == "queue_timeout"
            checks.number(name, value, what="a number of seconds", optional=optional, owner="PoolOptions")
        for name in ("pass_env", "preload"):
            checked = checks.names(name, getattr(self, name), owner="PoolOptions")
            msgspec.structs.force_setattr(self, name, checked)


class RuntimeOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What holds for a whole runtime.

    Attributes:
        default_lm: The LM of calls that name none: a model (``"openai/gpt-5-mini"``), ``"local"``,
            ``"local:/path.gguf"``, or a profile's name.
        allow_modules: Import paths, each with all below it, that commands, adapters and engines of the
            user may come from. Nothing else is ever imported on a caller's word.
        python: The interpreter of the workers; None is the one that runs this process.
        local_model: Path of the GGUF file behind ``lm="local"``; None is the packaged model.
        max_payload: The largest arguments of one call in bytes.
        max_result: The largest result of one call in bytes.
    """

    default_lm: str | None = None
    allow_modules: Iterable[str] = ()
    python: str | None = None
    local_model: str | None = None
    max_payload: int = 512 * MiB
    max_result: int = 512 * MiB

    def __post_init__(self) -> None:
        checked = checks.names("allow_modules", self.allow_modules, owner="Settings")
        msgspec.structs.force_setattr(self, "allow_modules", checked)
        for name in ("default_lm", "python", "local_model"):
            checks.text(name, getattr(self, name), owner="Settings")
        for name in ("max_payload", "max_result"):
            checks.whole_number(name, getattr(self, name), 1024, owner="Settings")


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
