"""Opens and closes everything that a runtime has."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from dspex.errors import DspexError, InvalidOption, PoolUnhealthy
from dspex.lm.profile import LM
from dspex.pool.pool import LocalPool
from dspex.pool.stats import RuntimeStats
from dspex.pool.zygote_client import Preparation, ZygoteClient
from dspex.runtime.models import Models
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
        lm: The LM of calls that name none.
        lms: Profiles by name.
        pools: Options by name; the pool ``general`` exists in any case.
        settings: What holds for all of it.
    """

    def __init__(
        self,
        lm: LM | str | None,
        lms: Mapping[str, LM | str] | None,
        pools: Mapping[str, PoolOptions] | None,
        settings: Settings | None,
    ) -> None:
        self.bus = Bus()
        self.settings = settings or Settings()
        self.models = Models(lm, lms or {}, self.settings.local_model, self.bus)
        self._options = {DEFAULT_POOL: PoolOptions(), **(pools or {})}
        if taken := [name for name in self._options if name.endswith(_LITELLM)]:
            raise InvalidOption(
                f"a pool's name cannot end with {_LITELLM!r}, as {taken[0]!r} does: these are made on demand",
                details={"option": "pools"},
            )
        self._pools: dict[str, LocalPool] = {}
        self._zygotes: dict[Preparation, ZygoteClient] = {}
        self._warming: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

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
        self._warming = asyncio.create_task(self._warm_up())
        if wait:
            try:
                async with asyncio.timeout(start_timeout):
                    await asyncio.gather(*(pool.ready() for pool in self._pools.values()))
                    await asyncio.shield(self._warming)
            except TimeoutError:
                self._check_started(start_timeout)

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
        pool = self._pools[name] = LocalPool(name, options, self.settings, zygote)
        pool.start()
        return pool

    def _with_litellm(self, name: str) -> LocalPool:
        """The sibling of a pool whose workers have LiteLLM loaded, started when first needed.

        Its import takes seconds and 130 MB, so ordinary workers, and the zygote they come from, do without.
        """
        sibling = self._pools.get(f"{name}{_LITELLM}")
        if sibling is None and self._closing is None:
            sibling = self._start(f"{name}{_LITELLM}", self._options[name], _LITELLM_MODULE)
        return sibling or self._pools[name]  # a closed pool says so

    def _zygote(self, options: PoolOptions, preload: tuple[str, ...]) -> ZygoteClient:
        preparation = Preparation(self.settings.python, tuple(options.pass_env), preload)
        if preparation not in self._zygotes:
            self._zygotes[preparation] = ZygoteClient(preparation)
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
        return RuntimeStats({name: pool.stats() for name, pool in list(self._pools.items())})

    async def aclose(self) -> None:
        """End all workers, zygotes and models; what was still running fails with ``pool_closed``.

        Whoever asks waits for the one closing, which goes on when a waiting caller is cancelled.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._warming is not None:
            self._warming.cancel()
            await asyncio.wait([self._warming])
        await asyncio.gather(*(pool.aclose() for pool in self._pools.values()))
        await asyncio.gather(*(zygote.aclose() for zygote in self._zygotes.values()))
        await self.models.aclose()
