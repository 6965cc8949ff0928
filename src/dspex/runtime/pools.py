"""The pools of a runtime, and those that are made when something needs them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches

import msgspec

from dspex.errors import InvalidOption
from dspex.lm.gates import Gates
from dspex.pool.pool import LocalPool
from dspex.pool.zygote_client import Preparation, Zygote
from dspex.process.group import reap_dying
from dspex.settings import PoolOptions, Settings
from dspex.telemetry.events import Event
from dspex.types import LMRequest

_log = logging.getLogger("dspex.runtime")
DEFAULT_POOL = "general"
ISOLATED_POOL = "isolated"
#: The pools that exist in any case.
DEFAULTS = {DEFAULT_POOL: PoolOptions(), ISOLATED_POOL: PoolOptions(isolation="call")}
# What stands between a pool's name and what makes its sibling differ from it.
_PLUS = "+"
# What stands between a pool's name and the tenant whose it is.
_AT = "@"
# Seconds between two looks at the pools of tenants.
_LOOK = 1.0
_LITELLM = "litellm"
_REAPINGS = 200
_LITELLM_MODULE = "dspex.worker.litellm_engine"

MakeZygote = Callable[[Preparation, Callable[[Event], None]], Zygote]


class Pools:
    """Every pool by name, with two kinds of siblings that are started when first needed.

    Requests through LiteLLM need workers that have it loaded, which takes seconds and 130 MB. And a pool's
    isolated calls need workers with the same preparation as its own. Where tenants are to be apart each has
    a sibling of its own, which is closed when it has had nothing to do.

    Args:
        options: Options by name.
        settings: What holds for the whole runtime.
        gates: The gates of the runtime's LMs.
        emit: Told of every change of state.
        make_zygote: Makes what the workers of one preparation come from.
        learn: Told what each worker that is ready says of its DSPy.
        requested: Told of each LM request that has ended, with its pool's name.
    """

    def __init__(
        self,
        options: Mapping[str, PoolOptions],
        settings: Settings,
        gates: Gates,
        emit: Callable[[Event], None],
        make_zygote: MakeZygote,
        learn: Callable[[msgspec.Raw], None],
        requested: Callable[[str, LMRequest], None],
    ) -> None:
        self._options = _checked(options)
        self._settings = settings
        self._gates = gates
        self._emit = emit
        self._make_zygote = make_zygote
        self._learn = learn
        self._requested = requested
        self._zygotes: dict[Preparation, Zygote] = {}
        self._started: dict[tuple[str, Preparation, str], LocalPool] = {}
        self._found: dict[tuple[str, bool, bool, str], LocalPool] = {}
        self._sweeping: asyncio.Task[None] | None = None
        self._draining = False
        self._closing = False

    def start(self) -> None:
        """Start all that have a name."""
        for name in self._options:
            self._named(name)

    def __iter__(self) -> Iterator[LocalPool]:
        return iter(list(self._started.values()))

    def get(self, name: str, *, litellm: bool = False, isolated: bool = False, tenant: str = "") -> LocalPool:
        """The pool of that name, or its sibling.

        Args:
            name: As the caller wrote it.
            litellm: Its workers have to have LiteLLM loaded.
            isolated: A worker runs the call alone.
            tenant: Whose call it is.

        Raises:
            InvalidOption: There is none.
        """
        apart = tenant if tenant and not isolated and self._has_tenants(name) else ""
        wanted = (name, litellm, isolated, apart)
        pool = self._found.get(wanted)  # each call asks
        if pool is None:
            pool = self._find(name, litellm=litellm, isolated=isolated, tenant=apart)
            if not self._closing:
                self._found[wanted] = pool
        return pool

    def _has_tenants(self, name: str) -> bool:
        options = self._options.get(name)
        return options is not None and options.isolation == "tenant"

    def _find(self, name: str, *, litellm: bool, isolated: bool, tenant: str) -> LocalPool:
        if name not in self._options:
            raise InvalidOption(
                f"no pool {name!r}; this runtime has {', '.join(self._options)}",
                details={"option": "pool", "known": list(self._options)},
            )
        if isolated:
            return self._isolated(name, litellm=litellm)
        return self._with_litellm(name, tenant) if litellm else self._named(name, tenant)

    def _named(self, name: str, tenant: str = "") -> LocalPool:
        companion = lambda: self._isolated(name)  # noqa: E731
        return self._pool(name, name, self._preparation(name), companion, tenant)

    def _with_litellm(self, name: str, tenant: str) -> LocalPool:
        preparation = self._preparation(name)
        preparation = replace(preparation, preload=(*preparation.preload, _LITELLM_MODULE))
        companion = lambda: self._isolated(name, litellm=True)  # noqa: E731
        return self._pool(name, f"{name}{_PLUS}{_LITELLM}", preparation, companion, tenant)

    def _isolated(self, name: str, *, litellm: bool = False) -> LocalPool:
        """Where calls of a pool run alone: the pool's own companion, prepared as the pool is."""
        companion = self._options[name].isolated if self._options[name].isolation != "call" else name
        own, wanted = self._preparation(companion), self._preparation(name)
        both = replace(
            wanted,
            pass_env=tuple(dict.fromkeys((*wanted.pass_env, *own.pass_env))),
            preload=tuple(dict.fromkeys((*wanted.preload, *own.preload))),
        )
        shown = companion
        if both != own:
            shown = f"{companion}{_PLUS}{name}"
        if litellm:
            both = replace(both, preload=(*both.preload, _LITELLM_MODULE))
            shown = f"{shown}{_PLUS}{_LITELLM}"
        return self._pool(companion, shown, both, None)

    def _preparation(self, name: str) -> Preparation:
        options = self._options[name]
        return Preparation(self._settings.python, tuple(options.pass_env), tuple(options.preload))

    def _pool(
        self,
        name: str,
        shown: str,
        preparation: Preparation,
        companion: Callable[[], LocalPool] | None,
        tenant: str = "",
    ) -> LocalPool:
        key = (name, preparation, tenant)
        if key not in self._started:
            if self._closing:
                return next(iter(self._started.values()))  # a closed pool says so
            if preparation not in self._zygotes:
                self._zygotes[preparation] = self._make_zygote(preparation, self._emit)
            zygote, options = self._zygotes[preparation], self._options[name]
            if options.isolation == "call":
                companion = None
            if tenant:
                shown = f"{shown}{_AT}{tenant}"
                options = msgspec.structs.replace(options, min=0)
                if self._sweeping is None:
                    self._sweeping = asyncio.create_task(self._sweep(), name="dspex-tenants")
            pool = LocalPool(
                shown,
                options,
                self._settings,
                zygote,
                self._gates,
                self._emit,
                companion,
                self._learn,
                self._requested,
            )
            self._started[key] = pool
            pool.start()
            if self._draining:
                pool.refuse(drain=True)  # it takes over what others have admitted, and nothing new
        return self._started[key]

    async def _sweep(self) -> None:
        """Close the pools of tenants that have had nothing to do for so long that their workers are gone."""
        before: set[tuple[str, Preparation, str]] = set()
        while True:
            await asyncio.sleep(_LOOK)
            asleep = {key for key, pool in self._started.items() if key[2] and pool.asleep}
            for key in before & asleep:
                if not self._started[key].asleep:
                    continue  # it was called while another one was closed
                pool = self._started.pop(key)
                self._found = {wanted: found for wanted, found in self._found.items() if found is not pool}
                name, preparation, _ = key
                # Its calls are in the counters for good, those of the pool that all tenants have; at once, so
                # that no counter ever goes down.
                self._started.get((name, preparation, ""), self._named(name)).take_over(pool)
                await pool.aclose()
            before = asleep

    async def drain(self) -> None:
        """Have all of them take no more calls, and wait until those that were taken have ended."""
        self._draining = True
        await asyncio.gather(*(pool.drain() for pool in self))

    async def aclose(self) -> None:
        """End all workers and zygotes; what was still running fails with ``pool_closed``."""
        self._closing = True
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait([self._sweeping])
        await asyncio.gather(*(pool.aclose() for pool in self))
        await asyncio.gather(*(zygote.aclose() for zygote in self._zygotes.values()))
        # What was inherited from a zygote that was killed takes a moment to die; nobody reaps it after this.
        for _ in range(_REAPINGS):
            if not reap_dying():
                break
            await asyncio.sleep(0.005)


def _checked(options: Mapping[str, PoolOptions]) -> dict[str, PoolOptions]:
    """The options, where each pool that is another's companion runs one call per worker.

    Raises:
        InvalidOption: A name cannot be one, or a companion does not exist.
    """
    if taken := [name for name in options if _PLUS in name or _AT in name]:
        raise InvalidOption(
            f"a pool's name cannot have {_PLUS!r} or {_AT!r} in it, as {taken[0]!r} does: those are made on "
            "demand",
            details={"option": "pools"},
        )
    if (near := get_close_matches(DEFAULT_POOL, [*options.keys() - DEFAULTS.keys()], 1, 0.8)) and (
        options[DEFAULT_POOL] == DEFAULTS[DEFAULT_POOL]
    ):
        _log.warning("the pool %r is one of its own, and %r has its defaults", near[0], DEFAULT_POOL)
    companions = {ISOLATED_POOL, *(pool.isolated for name, pool in options.items() if pool.isolated != name)}
    checked = {
        name: msgspec.structs.replace(pool, isolation="call") if name in companions else pool
        for name, pool in options.items()
    }
    for name, pool in checked.items():
        if pool.isolation != "call" and (pool.isolated not in options or pool.isolated == name):
            others = ", ".join(other for other in options if other != name)
            raise InvalidOption(
                f"the pool {name!r} has isolated={pool.isolated!r}, which has to be another pool: {others}",
                details={"option": "isolated", "pool": name, "known": list(options)},
            )
    return checked
