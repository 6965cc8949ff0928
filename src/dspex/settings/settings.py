"""``Settings``: every option as it holds, and where each value came from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as File
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Self

import msgspec
from msgspec import UNSET, UnsetType

from dspex import checks
from dspex.errors import DspexError
from dspex.settings.layers import DEFAULT, Layer, of_arguments
from dspex.settings.load import load, pools_of
from dspex.settings.options import PoolOptions, RuntimeOptions
from dspex.settings.secrets import masked
from dspex.settings.shape import dotted
from dspex.types import Budget

_OPTIONS = RuntimeOptions.__struct_fields__
# Tables of which what was set is shown, and no default.
_TABLES = frozenset({"lm", "program", "budgets", "tenant_budgets"})


class Source(NamedTuple):
    """One option as it holds.

    Attributes:
        value: Its value as it may be shown: a key is ``***``.
        origin: ``"argument"``, file and line (``"dspex.toml:3"``), the variable, or ``"default"``.
    """

    value: Any
    origin: str


@dataclass(frozen=True, init=False, repr=False)
class Settings:
    """Every option of a runtime. What is not given here is read from a file, then from the environment.

    A keyword is stronger than the file, the file than the environment, and that than the default. Of an LM
    profile or a pool each option is taken from the strongest place that has it; a pool that is given as
    ``PoolOptions`` is taken as a whole. Reading happens once, when the object is made.

    The file is the one that ``file`` names, else the one that ``DSPEX_SETTINGS`` names, else the first that
    is found in the working directory or above it, up to a directory with ``.git``: ``dspex.toml``, or a
    ``pyproject.toml`` with ``[tool.dspex]``. One that another user may have written is passed over with a
    warning, unless it was named.

    Args:
        default_lm: The LM of calls that name none: a model, ``"local"``, or a profile's name.
        allow_modules: Import paths, each with all below it, that programs, commands, adapters and engines of
            the user may come from.
        python: The interpreter of the workers; None is the one that runs this process.
        local_model: Path of the GGUF file behind ``lm="local"``; None is the packaged model.
        max_payload: Bytes that the arguments of one call may have.
        max_result: Bytes that the result of one call may have.
        show_unsendable: Whether an ``Unsendable`` in a result has the ``repr`` of what it stands for.
        sandbox_seconds: How long a block of code that a model wrote may compute, in its sandbox; waiting for
            a tool or for the model does not count.
        sandbox_memory: Bytes that the values of such code may have.
        allow_local_interpreter: Whether calls may name ``sandbox="local"``, which runs such code as this
            user, with all that this user may do. It is no sandbox.
        store: Where sessions are kept: ``"memory"``, a file, a database URL, or a reference to one
            (``"env:DATABASE_URL"``). In a settings file a path goes from the file's own directory on.
        max_sessions: How many sessions there may be, of all tenants; one more is refused with
            ``session_quota``.
        max_sessions_per_tenant: How many of them one tenant may have, and how many those without a tenant.
        max_variable: Bytes that the value of one variable of a session may have.
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
        lms: LM profiles by name, each a mapping with the keys of ``[lm.NAME]``.
        pools: Options of pools by name, each a ``PoolOptions`` or a mapping with the keys of ``[pool.NAME]``.
        programs: Named programs, each a mapping with the keys of ``[program.NAME]``.
        budgets: How much may be spent, each a ``Budget``: of each ``call``, in the life of each ``session``,
            of each ``tenant`` in a UTC day, and of all together in a ``day``.
        tenant_budgets: Budgets of tenants by their names, in the place of that of every tenant.
        file: The settings file; False reads none.

    Attributes:
        lms: The profiles, each with the options that were set.
        pools: The pools that were named.
        programs: The programs that were named, each with the options that were set.
        file: The file that was read, or None.
        ignored: What was passed over: variables that begin with ``DSPEX_`` and set no option, and files
            that are not trusted.

    Raises:
        InvalidOption: An option is unknown or has a value that it does not take, or the file cannot be read.
            ``details`` has ``option`` and, as far as it has one, its ``file`` and ``line``, or ``variable``.
    """

    default_lm: str | None
    allow_modules: tuple[str, ...]
    python: str | None
    local_model: str | None
    max_payload: int
    max_result: int
    show_unsendable: bool
    sandbox_seconds: float
    sandbox_memory: int
    allow_local_interpreter: bool
    store: str
    max_sessions: int
    max_sessions_per_tenant: int
    max_variable: int
    max_turn: int
    history_turns: int
    history_tokens: int
    cache_ttl: float
    cache_size: int
    cache_file_size: int
    telemetry: bool
    traces: bool | None
    trace_content: bool
    log: Literal["json", "text"] | None
    lms: Mapping[str, Mapping[str, Any]] = field(hash=False)
    pools: Mapping[str, PoolOptions] = field(hash=False)
    programs: Mapping[str, Mapping[str, Any]] = field(hash=False)
    budgets: Mapping[str, Budget] = field(hash=False)
    tenant_budgets: Mapping[str, Budget] = field(hash=False)
    file: File | None = field(compare=False)
    ignored: tuple[str, ...] = field(compare=False)
    _layer: Layer = field(compare=False)
    _keywords: Mapping[str, Any] = field(compare=False)

    def __init__(
        self,
        *,
        default_lm: str | UnsetType | None = UNSET,
        allow_modules: Iterable[str] | UnsetType = UNSET,
        python: str | UnsetType | None = UNSET,
        local_model: str | UnsetType | None = UNSET,
        max_payload: int | UnsetType = UNSET,
        max_result: int | UnsetType = UNSET,
        show_unsendable: bool | UnsetType = UNSET,
        sandbox_seconds: float | UnsetType = UNSET,
        sandbox_memory: int | UnsetType = UNSET,
        allow_local_interpreter: bool | UnsetType = UNSET,
        store: str | UnsetType = UNSET,
        max_sessions: int | UnsetType = UNSET,
        max_sessions_per_tenant: int | UnsetType = UNSET,
        max_variable: int | UnsetType = UNSET,
        max_turn: int | UnsetType = UNSET,
        history_turns: int | UnsetType = UNSET,
        history_tokens: int | UnsetType = UNSET,
        cache_ttl: float | UnsetType = UNSET,
        cache_size: int | UnsetType = UNSET,
        cache_file_size: int | UnsetType = UNSET,
        telemetry: bool | UnsetType = UNSET,
        traces: bool | UnsetType | None = UNSET,
        trace_content: bool | UnsetType = UNSET,
        log: Literal["json", "text"] | UnsetType | None = UNSET,
        lms: Mapping[str, Mapping[str, Any]] | UnsetType = UNSET,
        pools: Mapping[str, PoolOptions | Mapping[str, Any]] | UnsetType = UNSET,
        programs: Mapping[str, Mapping[str, Any]] | UnsetType = UNSET,
        budgets: Mapping[str, Budget | Mapping[str, Any]] | UnsetType = UNSET,
        tenant_budgets: Mapping[str, Budget | Mapping[str, Any]] | UnsetType = UNSET,
        file: str | os.PathLike[str] | Literal[False] | None = None,
    ) -> None:
        values = (
            default_lm, allow_modules, python, local_model, max_payload, max_result, show_unsendable,
            sandbox_seconds, sandbox_memory, allow_local_interpreter, store,
            max_sessions, max_sessions_per_tenant, max_variable, max_turn, history_turns, history_tokens,
            cache_ttl, cache_size, cache_file_size,
            telemetry, traces, trace_content, log,
        )  # fmt: skip
        given = {name: value for name, value in zip(_OPTIONS, values, strict=True) if value is not UNSET}
        profiles = {} if isinstance(lms, UnsetType) else lms
        options_of_pools = {} if isinstance(pools, UnsetType) else pools
        named = {} if isinstance(programs, UnsetType) else programs
        scopes = {} if isinstance(budgets, UnsetType) else budgets
        tenants = {} if isinstance(tenant_budgets, UnsetType) else tenant_budgets
        loaded = load(given, profiles, options_of_pools, named, file, budgets=scopes, tenant_budgets=tenants)
        # As they were checked: what was given may be an iterator, which has nothing a second time.
        checked = {name: getattr(loaded.options, name) for name in given}
        fields: dict[str, Any] = {
            **{name: getattr(loaded.options, name) for name in _OPTIONS},
            "lms": MappingProxyType({name: MappingProxyType(lm) for name, lm in loaded.lms.items()}),
            "pools": MappingProxyType(loaded.pools),
            "programs": MappingProxyType(
                {name: MappingProxyType(options) for name, options in loaded.programs.items()}
            ),
            "budgets": MappingProxyType(loaded.budgets),
            "tenant_budgets": MappingProxyType(loaded.tenant_budgets),
            "file": loaded.file,
            "ignored": loaded.ignored,
            "_layer": loaded.layer,
            "_keywords": {
                **checked,
                "lms": profiles,
                "pools": options_of_pools,
                "programs": named,
                "budgets": scopes,
                "tenant_budgets": tenants,
                "file": file,
            },
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def reloaded(self) -> Self:
        """The settings of the same keywords, with file and environment read again.

        Raises:
            InvalidOption: As when they are made.
        """
        return type(self)(**self._keywords)

    def sources(self) -> dict[str, Source]:
        """Every option by its name in a file (``"pool.general.workers"``), with where its value came from.

        Each is a named tuple ``(value, origin)``. The value is as it may be shown, without keys. The origin
        is ``"argument"``, file and line (``"dspex.toml:3"``), the variable, or ``"default"``.
        """
        paths = [(name,) for name in _OPTIONS]
        values: dict[tuple[str, ...], Any] = {path: getattr(self, path[0]) for path in paths}
        values |= {path: value for path, value in self._layer.values.items() if path[0] in _TABLES}
        for name, options in self.pools.items():
            values |= {("pool", name, key): value for key, value in msgspec.structs.asdict(options).items()}
        return {
            dotted(path): Source(masked(path, value), self._layer.origins.get(path, DEFAULT).text)
            for path, value in values.items()
        }

    def place(self, option: str) -> str | None:
        """Where an option is written, by its name in a file: ``"dspex.toml:7"`` or ``"DSPEX_LM"``.

        Returns:
            The place, that of its table if the option itself is not written, or None if neither is.
        """
        # Not "lm" and "pool" themselves: they are wherever the first of their tables is.
        written = {
            dotted(path): origin
            for path, origin in self._layer.origins.items()
            if origin.details and (path[1:] or path in self._layer.values)
        }
        nearest = max((name for name in written if _within(option, name)), key=len, default=None)
        return None if nearest is None else written[nearest].text

    def blame(self, error: DspexError, *table: str) -> DspexError:
        """An error about an option of a table, with the place where that option is written.

        Args:
            error: What is wrong; ``details["option"]`` is the option's own name.
            *table: Names of the table, as ``"lm", "fast"``.
        """
        option = error.details.get("option", "model")
        within = [path for path in self._layer.origins if path[: len(table)] == table and path[-1] == option]
        # The table's own option before one of a table in it, such as ``retry``.
        path = min(within, key=len, default=table)
        return self._layer.origin(path).blame(error, path)

    def pools_over(
        self,
        defaults: Mapping[str, PoolOptions],
        given: Mapping[str, PoolOptions | Mapping[str, Any] | None],
    ) -> dict[str, PoolOptions]:
        """The pools of a runtime: its defaults, under these settings, under its own arguments.

        Args:
            defaults: The pools that exist in any case.
            given: Options by name: ``PoolOptions`` replace those of the settings, a mapping changes what it
                names, and None leaves a pool of the settings out.

        Raises:
            InvalidOption: There is no such option, or it does not take that value.
        """
        if not isinstance(given, Mapping):
            raise checks.refuse("pools", "a mapping of names to options", type(given), "Runtime")
        layer = self._layer.without(("pool", name) for name, options in given.items() if options is None)
        layer.add(of_arguments({}, {name: options for name, options in given.items() if options is not None}))
        return {**defaults, **pools_of(layer, defaults)}

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready data in the form of a file. Keys are not shown."""
        shown: dict[str, Any] = {name: masked((name,), getattr(self, name)) for name in _OPTIONS}
        shown["lm"] = {name: masked(("lm", name), options) for name, options in self.lms.items()}
        shown["pool"] = {name: msgspec.structs.asdict(options) for name, options in self.pools.items()}
        shown["program"] = {
            name: masked(("program", name), dict(options)) for name, options in self.programs.items()
        }
        for kind in ("budgets", "tenant_budgets"):
            shown[kind] = {name: msgspec.structs.asdict(one) for name, one in getattr(self, kind).items()}
        return dict(msgspec.json.decode(msgspec.json.encode(shown, enc_hook=repr)))

    def __repr__(self) -> str:
        changed = {
            name: source.value for name, source in self.sources().items() if source.origin != "default"
        }
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in changed.items())})"


def _within(option: str, name: str) -> bool:
    return option == name or option.startswith(f"{name}.")
