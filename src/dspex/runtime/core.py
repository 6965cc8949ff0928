"""Opens and closes everything that a runtime has."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from dspex.errors import DspexError, InvalidOption, PoolClosed, PoolUnhealthy
from dspex.lm.named import from_settings
from dspex.lm.profile import LM
from dspex.pool.pool import LocalPool
from dspex.pool.stats import LMStats, RuntimeStats
from dspex.pool.zygote_client import Preparation, Zygote, ZygoteClient
from dspex.runtime.models import Models, as_lm, find
from dspex.runtime.presence import Presence
from dspex.settings import PoolOptions, Settings
from dspex.telemetry.bus import Bus
from dspex.types import LMSpec

_log = logging.getLogger("dspex.runtime")
DEFAULT_POOL = "general"
# How the sibling of a pool is called, and what its workers have loaded.
_LITELLM = "+litellm"
_LITELLM_MODULE = "dspex.worker.litellm_engine"


class Core:
    """A runtime without its faces. All of it lives on one loop.

    Args:
        lm: The LM of calls that name none; None is that of the settings.
        lms: Profiles by name, over those of the settings.
        pools: Options by name, over those of the settings; the pool ``general`` exists in any case.
        settings: What holds for all of it.
        zygote: Makes what the workers of one preparation come from.
    """

    def __init__(
        self,
        lm: LM | str | None,
        lms: Mapping[str, LM | str] | None,
        pools: Mapping[str, PoolOptions | Mapping[str, Any] | None] | None,
        settings: Settings,
        zygote: Callable[[Preparation], Zygote] = ZygoteClient,
    ) -> None:
        self.bus = Bus()
        self.settings = settings
        self._given = (lm, dict(lms or {}))
        self.models = Models(self.settings.local_model, self.bus)
        self.models.replace(*self._profiles(self.settings))
        self._options = self.settings.pools_over({DEFAULT_POOL: PoolOptions()}, pools or {})
        if taken := [name for name in self._options if name.endswith(_LITELLM)]:
            raise InvalidOption(
                f"a pool's name cannot end with {_LITELLM!r}, as {taken[0]!r} does: these are made on demand",
                details={"option": "pools"},
            )
        if (near := get_close_matches(DEFAULT_POOL, [*self._options.keys() - {DEFAULT_POOL}], 1, 0.8)) and (
            self._options[DEFAULT_POOL] == PoolOptions()
        ):
            _log.warning("the pool %r is one of its own, and %r has its defaults", near[0], DEFAULT_POOL)
        self._pools: dict[str, LocalPool] = {}
        self._make_zygote = zygote
        self._zygotes: dict[Preparation, Zygote] = {}
        self._presence = Presence(self.stats, self.settings.python)
        self._warming: asyncio.Task[None] | None = None
        self._draining: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    def _profiles(self, settings: Settings) -> tuple[LM | str | None, dict[str, LM]]:
        """The default LM, and all profiles: those of the settings under those of the runtime."""
        given, lms = self._given
        named = {**from_settings(settings), **{name: as_lm(lm) for name, lm in lms.items()}}
        default = settings.default_lm if given is None else given
        try:
            if default is not None:
                find(default, named)
        except DspexError as error:
            if given is not None:
                raise
            wrong = type(error)(error.message, details={**error.details, "option": "default_lm"})
            raise settings.blame(wrong) from None
        return default, named

    def reloaded(self) -> Settings:
        """The settings read again and checked; nothing is changed. From any thread: it reads a file.

        Raises:
            InvalidOption: They are wrong.
        """
        settings = self.settings.reloaded()
        self._profiles(settings)
        return settings

    async def take_over(self, settings: Settings) -> None:
        """Have the profiles and the default LM of these settings from now on."""
        for name in ("allow_modules", "python", "local_model", "max_payload", "max_result", "pools"):
            if getattr(settings, name) != getattr(self.settings, name):
                _log.warning("%s has changed and holds from the next runtime on", name)
        self.settings = settings
        self.models.replace(*self._profiles(settings))

    async def open(self, start_timeout: float, *, wait: bool) -> None:
        """Start the pools, and the embedded model when it is the default.

        Args:
            start_timeout: Seconds within which each pool has to have a ready worker.
            wait: Whether to wait for that, so that a short deadline never pays for an import.

        Raises:
            PoolUnhealthy: A pool has no ready worker in time.
        """
        for name, options in self._options.items():
            self._start(name, options)
        if self.models.needs_litellm:
            self._with_litellm(DEFAULT_POOL)
        self._presence.open()
        self._warming = asyncio.create_task(self._warm_up())
        if wait:
            try:
                async with asyncio.timeout(start_timeout):
                    await asyncio.gather(*(pool.ready() for pool in self._pools.values()))
                    await asyncio.wait([self._warming])
            except TimeoutError:
                self._check_started(start_timeout)
            if self._closing is not None or self._draining is not None:
                raise PoolClosed("this runtime was closed while it opened")

    def _check_started(self, start_timeout: float) -> None:
        # The embedded model may be on its way for longer: calls wait for it within their own deadlines.
        late = [
            name
            for name, pool in self._pools.items()
            if not any(worker.state in {"ready", "busy"} for worker in pool.stats().workers)
        ]
        if late:
            raise PoolUnhealthy(
                f"no worker of {', '.join(late)} was ready within {start_timeout:g} s; raise start_timeout, "
                "or pass wait=False",
                details={"cause": "start_timeout", "pools": late},
            )

    async def _warm_up(self) -> None:
        try:
            await self.models.warm_up()
        except DspexError as error:
            # No error until a call needs it, which then gets its own.
            _log.info("the default LM is not ready: %s", error.message)

    def _start(self, name: str, options: PoolOptions, *preload: str) -> LocalPool:
        zygote = self._zygote(options, (*options.preload, *preload))
        pool = self._pools[name] = LocalPool(name, options, self.settings, zygote, self.models.gates)
        pool.start()
        return pool

    def _with_litellm(self, name: str) -> LocalPool:
        """The sibling of a pool whose workers have LiteLLM loaded, started when first needed.

        Its import takes seconds and 130 MB, so ordinary workers, and the zygote they come from, do without.
        """
        sibling = self._pools.get(f"{name}{_LITELLM}")
        if sibling is None and self._closing is None and self._draining is None:
            sibling = self._start(f"{name}{_LITELLM}", self._options[name], _LITELLM_MODULE)
        return sibling or self._pools[name]  # a closed pool says so

    def _zygote(self, options: PoolOptions, preload: tuple[str, ...]) -> Zygote:
        preparation = Preparation(self.settings.python, tuple(options.pass_env), preload)
        if preparation not in self._zygotes:
            self._zygotes[preparation] = self._make_zygote(preparation)
        return self._zygotes[preparation]

    def pool(self, name: str, lm: LMSpec | None = None) -> LocalPool:
        """The pool of that name, or its sibling whose workers can ask ``lm``.

        Raises:
            InvalidOption: There is none.
        """
        if name not in self._options:
            raise InvalidOption(
                f"no pool {name!r}; this runtime has {', '.join(self._options)}",
                details={"option": "pool", "known": list(self._options)},
            )
        return self._with_litellm(name) if lm is not None and lm.needs_litellm else self._pools[name]

    def stats(self) -> RuntimeStats:
        """How everything stands."""
        lms = [
            LMStats(gate.model, gate.in_flight, gate.waiting, *gate.last_minute(), gate.slowed)
            for gate in self.models.gates
            if gate.watched
        ]
        return RuntimeStats({name: pool.stats() for name, pool in list(self._pools.items())}, lms)

    async def aclose(self, *, drain: bool = False, timeout: float | None = 30.0) -> None:
        """End all workers, zygotes and models; what was still running fails with ``pool_closed``.

        Whoever asks waits for the one closing, which goes on when a waiting caller is cancelled. A closing
        without ``drain`` ends a draining that is under way.

        Args:
            drain: Whether calls that were taken may end first; new ones are refused from now on.
            timeout: Seconds that they have for that; None is as long as it takes.
        """
        if drain and self._closing is None:
            if self._draining is None:
                self._draining = asyncio.create_task(self._drain(timeout))
            await asyncio.wait([self._draining], timeout=timeout)
        await asyncio.shield(self._end())

    def _end(self) -> asyncio.Task[None]:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        return self._closing

    async def _drain(self, timeout: float | None) -> None:
        # A task of its own, with its own limit: it goes on, and closes, when whoever asked is cancelled.
        try:
            async with asyncio.timeout(timeout):
                await asyncio.gather(*(pool.drain() for pool in self._pools.values()))
        except TimeoutError:
            left = sum(pool.stats().unfinished for pool in self._pools.values())
            _log.warning("%d calls had not ended within %g s, and are ended by closing", left, timeout)
        self._end()

    async def _close(self) -> None:
        if self._draining is not None:
            self._draining.cancel()
        await self._presence.aclose()
        if self._warming is not None:
            self._warming.cancel()
            await asyncio.wait([self._warming])
        await asyncio.gather(*(pool.aclose() for pool in self._pools.values()))
        await asyncio.gather(*(zygote.aclose() for zygote in self._zygotes.values()))
        await self.models.aclose()
        await self.bus.aclose()
