"""Opens and closes everything that a runtime has."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dspex.errors import DspexError, PoolClosed, PoolUnhealthy
from dspex.lm.breaker import Circuit
from dspex.lm.named import from_settings
from dspex.lm.profile import LM
from dspex.pool.pool import LocalPool
from dspex.pool.stats import BreakerStats, LMStats, RuntimeStats
from dspex.pool.zygote_client import ZygoteClient
from dspex.program.installed import Catalogue
from dspex.runtime import named
from dspex.runtime.budgets import Budgets
from dspex.runtime.cached import Caches
from dspex.runtime.functions import Functions
from dspex.runtime.mcp import Servers
from dspex.runtime.models import Models, as_lm, find
from dspex.runtime.modules import Modules, Signatures
from dspex.runtime.observed import requested
from dspex.runtime.open_turns import OpenTurns
from dspex.runtime.pools import DEFAULT_POOL, DEFAULTS, MakeZygote, Pools
from dspex.runtime.presence import Presence
from dspex.runtime.programs import Programs
from dspex.runtime.sessions import Sessions
from dspex.runtime.standing import standing
from dspex.runtime.storage import Storage
from dspex.settings import PoolOptions, Settings
from dspex.telemetry import logs
from dspex.telemetry.bus import Bus
from dspex.telemetry.events import BreakerChanged, CallFinished
from dspex.telemetry.insights import WINDOW, Insights
from dspex.telemetry.otel import Tracing
from dspex.telemetry.prometheus import HEARD, Metrics
from dspex.types import LMSpec

_log = logging.getLogger("dspex.runtime")
# What a runtime is opened with and keeps; of the settings read anew only the LMs are taken over.
_KEPT = (
    "allow_modules",
    "python",
    "local_model",
    "max_payload",
    "max_result",
    "show_unsendable",
    "sandbox_seconds",
    "sandbox_memory",
    "allow_local_interpreter",
    "store",
    "max_turn",
    "max_variable",
    "history_turns",
    "history_tokens",
    "cache_ttl",
    "cache_size",
    "cache_file_size",
    "max_sessions",
    "max_sessions_per_tenant",
    "telemetry",
    "traces",
    "trace_content",
    "log",
    "pools",
)


class Core:
    """A runtime without its faces. All of it lives on one loop.

    Args:
        lm: The LM of calls that name none; None is that of the settings.
        lms: Profiles by name, over those of the settings.
        pools: Options by name, over those of the settings; the pools ``general`` and
            ``isolated`` exist in any case.
        settings: What holds for all of it.
        zygote: Makes what the workers of one preparation come from.
        store: Where sessions are kept; None is the settings' ``store``.
    """

    def __init__(
        self,
        lm: LM | str | None,
        lms: Mapping[str, LM | str] | None,
        pools: Mapping[str, PoolOptions | Mapping[str, Any] | None] | None,
        settings: Settings,
        zygote: MakeZygote = ZygoteClient,
        store: str | Path | None = None,
    ) -> None:
        self.bus = Bus()
        self.settings = settings
        self.tracing = Tracing(settings.traces, content=settings.trace_content)
        self.metrics = Metrics(self.bus, lambda: standing(self.stats()))
        self.insights = Insights()
        if settings.telemetry:
            self.bus.listen(self.metrics.hear, HEARD)
            self.bus.listen(self.insights.hear, [CallFinished])
        self.bus.listen(logs.hear, [CallFinished], logs.hears)
        self._given = (lm, dict(lms or {}))
        self.models = Models(self.settings.local_model, self.bus)
        self.models.replace(*self._profiles(self.settings))
        named.check(self.settings)
        self.caches = Caches(settings, self.bus)
        self.catalogue = Catalogue()
        self.storage = Storage(settings.store if store is None else store)
        self.budgets = Budgets(lambda: self.settings, self.storage, self.models.gates, self.bus)
        self.models.gates.on_circuit.append(self._on_circuit)
        self.sessions = Sessions(self.storage, lambda: self.settings, self.bus)
        self.turns = OpenTurns(self.sessions)
        self.programs = Programs(self.sessions)
        self.modules = Modules(self.settings.allow_modules)
        self.functions = Functions()
        self.servers = Servers(self.functions)
        self.signatures = Signatures(self.settings.allow_modules)
        options = self.settings.pools_over(DEFAULTS, pools or {})
        # It ends also when this is never opened, or what follows raises.
        self._stop_logging = weakref.finalize(self, logs.opened(settings.log))
        self._pools = Pools(
            options,
            self.settings,
            self.models.gates,
            self.bus.emit,
            zygote,
            self.catalogue.learn,
            partial(requested, self.bus),
        )
        self._presence = Presence(self.stats, lambda: self.insights.over(WINDOW), self.settings.python)
        self._warming: asyncio.Task[None] | None = None
        self._draining: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()
        self._staying: asyncio.Task[None] | None = None

    def _profiles(self, settings: Settings) -> tuple[LM | str | None, dict[str, LM]]:
        """The default LM, and all profiles: those of the settings under those of the runtime."""
        given, lms = self._given
        named = {**from_settings(settings), **{name: as_lm(lm) for name, lm in lms.items()}}
        for profile in named.values():
            for other in profile.fallbacks:
                find(other, named)  # a wrong name is told now, and not when the first LM fails
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
        named.check(settings)
        return settings

    async def take_over(self, settings: Settings) -> None:
        """Have the profiles and the default LM of these settings from now on."""
        for name in _KEPT:
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
        self._staying = asyncio.create_task(self._stay(), name="dspex-stays")
        if self.storage.outlives:
            await self.storage.open()
        self._pools.start()
        if self.models.needs_litellm:
            self._pools.get(DEFAULT_POOL, litellm=True)
        self._presence.open()
        self._warming = asyncio.create_task(self._warm_up())
        if wait:
            try:
                async with asyncio.timeout(start_timeout):
                    await asyncio.gather(*(pool.ready() for pool in self._pools))
                    await asyncio.wait([self._warming])
            except TimeoutError:
                self._check_started(start_timeout)
            if self._closing is not None or self._draining is not None:
                raise PoolClosed("this runtime was closed while it opened")

    def _check_started(self, start_timeout: float) -> None:
        # The embedded model may be on its way for longer: calls wait for it within their own deadlines.
        late = [
            pool.name
            for pool in self._pools
            if (stats := pool.stats()).wanted
            and not any(worker.state in {"ready", "busy"} for worker in stats.workers)
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

    def pool(
        self, name: str, lm: LMSpec | None = None, *, isolated: bool = False, tenant: str = ""
    ) -> LocalPool:
        """The pool of that name, or its sibling that can run such a call.

        Args:
            name: As the caller wrote it.
            lm: The call's LM; some need workers of their own.
            isolated: Whether the call has to have a worker for itself.
            tenant: Whose call it is.

        Raises:
            InvalidOption: There is none.
        """
        litellm = lm is not None and lm.needs_litellm
        return self._pools.get(name, litellm=litellm, isolated=isolated, tenant=tenant)

    def stats(self) -> RuntimeStats:
        """How everything stands."""
        lms = [
            LMStats(gate.model, gate.in_flight, gate.waiting, *gate.last_minute(), gate.slowed, gate.tenant)
            for gate in self.models.gates
            if gate.watched
        ]
        breakers = [
            BreakerStats(c.endpoint, c.model, c.state, *c.counted(), c.opens_in)
            for c in self.models.gates.circuits.all()
        ]
        pools = {pool.name: pool.stats() for pool in self._pools}
        return RuntimeStats(pools, lms, self.caches.stats, breakers, self.budgets.stats())

    def _on_circuit(self, circuit: Circuit, cause: str) -> None:
        self.bus.emit(
            BreakerChanged(endpoint=circuit.endpoint, model=circuit.model, state=circuit.state, cause=cause)
        )

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

    async def _stay(self) -> None:
        """Close when the event loop is torn down, as ``asyncio.run`` does with a runtime that nobody left."""
        try:
            await self._closed.wait()
        except asyncio.CancelledError:
            await asyncio.shield(self._end())
            raise

    def _end(self) -> asyncio.Task[None]:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        return self._closing

    async def _drain(self, timeout: float | None) -> None:
        # A task of its own, with its own limit: it goes on, and closes, when whoever asked is cancelled.
        try:
            async with asyncio.timeout(timeout):
                await self._pools.drain()
        except TimeoutError:
            left = sum(pool.stats().unfinished for pool in self._pools)
            _log.warning("%d calls had not ended within %g s, and are ended by closing", left, timeout)
        self._end()

    async def _close(self) -> None:
        if self._draining is not None:
            self._draining.cancel()
        await self._presence.aclose()
        if self._warming is not None:
            self._warming.cancel()
            await asyncio.wait([self._warming])
        await self._pools.aclose()
        await self.servers.aclose()
        await self.functions.aclose()
        await self.models.aclose()
        await self.caches.aclose()
        await self.turns.aclose()
        await self.budgets.aclose()
        await self.sessions.aclose()
        await self.storage.aclose()
        await self.bus.aclose()
        self._stop_logging()
        self._closed.set()
