"""The runtime: everything that is shared by adapters, open while it is entered."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import inspect
import os
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from dspex import checks
from dspex.adapter.adapter import DSPyAdapter
from dspex.errors import PoolClosed
from dspex.lm.profile import LM
from dspex.pool.stats import RuntimeStats
from dspex.pool.zygote_client import Preparation, Zygote, ZygoteClient
from dspex.runtime.bridge import Bridge
from dspex.runtime.core import Core
from dspex.runtime.encoded import Programs
from dspex.runtime.pools import DEFAULT_POOL
from dspex.runtime.portal import Portal
from dspex.runtime.route import Route
from dspex.runtime.states import States
from dspex.settings import PoolOptions, Settings
from dspex.telemetry.events import Event
from dspex.telemetry.insights import LONGEST, WINDOW, Insight

E = TypeVar("E", bound=Event)


class Runtime:
    """Pools of workers, language models, and the way to them.

    ``with Runtime(...)`` has a thread of its own: its sync methods work anywhere, a notebook included, and
    the async twins may be awaited from any loop. ``async with Runtime(...)`` lives on the loop that
    opened it.

    Args:
        lm: The LM of calls that name none: ``"openai/gpt-5-mini"``, ``"local"``, ``"local:/path.gguf"``, the
            name of a profile, or an ``LM``; None is the settings' ``default_lm``. That there is none, or no
            key for it, is no error until a call needs it.
        lms: Profiles by name, over those of the settings.
        pools: Options by name, over those of the settings: ``PoolOptions`` take the place of what the
            settings say of that pool, a mapping such as ``{"workers": 1}`` changes what it names, and None
            leaves the pool out. The pool ``general`` exists in any case, with a worker per core.
        store: Where sessions are kept: ``"memory"``, the path of a file, or the URL of a database
            (``"postgresql+asyncpg://user@host/name"``); None is the settings' ``store``, which is memory.
        settings: What holds for the whole runtime; None is ``Settings()``, which reads the settings file and
            the environment.
        start_timeout: Seconds within which each pool has to have a ready worker.
        wait: Whether opening waits for that.
    """

    def __init__(
        self,
        lm: LM | str | None = None,
        *,
        lms: Mapping[str, LM | str] | None = None,
        pools: Mapping[str, PoolOptions | Mapping[str, Any] | None] | None = None,
        store: str | Path | None = None,
        settings: Settings | None = None,
        start_timeout: float = 60.0,
        wait: bool = True,
    ) -> None:
        found = self._settings() if settings is None else settings
        self.core = Core(lm, lms, pools, found, self._zygote, store)
        self.portal = Portal()
        self.programs = Programs()
        self.states = States()
        self._start_timeout = start_timeout
        self._wait = wait
        self._state: Literal["new", "open", "closed"] = "new"
        self._process = os.getpid()
        # Nobody can close one that is gone; the workers would stay for as long as this process does.
        weakref.finalize(self, _forgotten, self.core, self.portal).atexit = False

    @staticmethod
    def _settings() -> Settings:
        """What holds when nobody says otherwise; a runtime for tests reads no file."""
        return Settings()

    @staticmethod
    def _zygote(preparation: Preparation, emit: Callable[[Event], None]) -> Zygote:
        """Where its workers come from; a runtime for tests has another place."""
        return ZygoteClient(preparation, emit)

    # Opening and closing

    def open(self) -> Self:
        """Open on a thread of its own, as ``with`` does.

        Raises:
            PoolUnhealthy: No worker was ready in time.
            RuntimeError: It was opened before.
        """
        self._opening()
        # A program that ends without closing: workers die with it in any case, this only does it tidily.
        # It may end while another thread still waits for the workers.
        atexit.register(_close_at_exit, weakref.ref(self))
        self.portal.start_thread()
        try:
            self.portal.run(lambda: self.core.open(self._start_timeout, wait=self._wait), "aopen")
        except BaseException:
            self.close()
            raise
        return self

    async def aopen(self) -> Self:
        """Open on the running loop, as ``async with`` does."""
        self._opening()
        self.portal.adopt()
        try:
            await self.core.open(self._start_timeout, wait=self._wait)
        except BaseException:
            await self.aclose()
            raise
        return self

    def _opening(self) -> None:
        if self._state != "new":
            raise RuntimeError(f"this runtime was opened before and is {self._state}; make another one")
        self._state = "open"
        self._process = os.getpid()

    def close(self, *, drain: bool = False, timeout: float | None = 30.0) -> None:
        """End everything. Safe to repeat, and from any thread; whoever comes later waits for the same end.

        Args:
            drain: Whether calls that were taken, queued and running, may end first. New ones are refused with
                ``pool_closed`` from now on. Closing once more, without ``drain``, ends it at once.
            timeout: Seconds that they have; those left then fail with ``pool_closed``. None is as long as it
                takes. Their own deadlines hold in any case.

        Raises:
            RuntimeError: Called on the runtime's own event loop; await ``aclose`` there.
        """
        if self._state == "open" and os.getpid() == self._process:
            with contextlib.suppress(PoolClosed):  # another thread was first, and the loop has ended
                self.portal.run(lambda: self.core.aclose(drain=drain, timeout=timeout), "aclose")
            self._closed()

    async def aclose(self, *, drain: bool = False, timeout: float | None = 30.0) -> None:
        """``close`` for event loops. When it is cancelled, closing goes on."""
        if self._state == "open" and os.getpid() == self._process:
            with contextlib.suppress(PoolClosed):
                await self.portal.wait(lambda: self.core.aclose(drain=drain, timeout=timeout))
            self._closed()

    def _closed(self) -> None:
        # Only once all has ended: what was refused or cancelled can be tried again.
        self._state = "closed"
        if self.portal.has_thread:
            self.portal.stop_thread()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return await self.aopen()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # What it gives

    def adapter(
        self,
        pool: str = DEFAULT_POOL,
        timeout: float | None = 30.0,
        *,
        lm: LM | str | None = None,
        tenant: str | None = None,
        module_config: Mapping[str, Mapping[str, Any]] | None = None,
        serialization_format: Literal["python", "json"] = "python",
    ) -> DSPyAdapter:
        """An adapter on this runtime; see ``DSPyAdapter`` for its options."""
        return DSPyAdapter(
            pool,
            timeout,
            lm=lm,
            tenant=tenant,
            module_config=module_config,
            serialization_format=serialization_format,
            _runtime=self,
        )

    def pool(self, name: str = DEFAULT_POOL) -> Bridge:
        """One pool, for commands by name."""
        return Bridge(self.core, self.portal, self.route(name), name, runtime=self)

    def route(self, pool: str) -> Route:
        """The way of questions through a pool; adapters go it."""
        return Route(self.core, self.portal, self.programs, self.states, pool)

    def reload(self) -> None:
        """Read the settings file and the environment again, and take over their LM profiles and default LM.

        Calls that run keep the LM they began with. Profiles given in code, and those that ``configure_lm``
        made, stay as they are. Other options hold from the next runtime on; a warning is logged if one has
        changed.

        Raises:
            InvalidOption: The settings are wrong; everything stays as it was.
            RuntimeError: Called on the runtime's own event loop; await ``areload`` there.
        """
        settings = self.core.reloaded()
        self.portal.run(lambda: self.core.take_over(settings), "areload")

    async def areload(self) -> None:
        """``reload`` for event loops."""
        settings = await asyncio.to_thread(self.core.reloaded)
        await self.portal.wait(lambda: self.core.take_over(settings))

    def stats(self) -> RuntimeStats:
        """How pools, workers and calls stand."""
        return self.core.stats()

    def metrics(self) -> str:
        """What Prometheus reads: counters, histograms and gauges of this runtime, in its text format.

        Their names and labels are in the reference. With ``Settings(telemetry=False)`` only what a runtime
        knows anyway is there.
        """
        return self.core.metrics.text()

    def insights(self, window: float = WINDOW) -> list[Insight]:
        """What calls have been like lately: one of each module, program and model, the most frequent first.

        Args:
            window: Seconds, from 10 to 3,600; each is compared with the same time before.

        Raises:
            InvalidOption: It is no such number.
        """
        seconds = checks.number("window", window, 10)
        if seconds is None or seconds > LONGEST:
            raise checks.refuse("window", f"a number of seconds from 10 to {LONGEST:g}", window)
        return self.core.insights.over(seconds)

    def on(self, event: type[E], function: Callable[[E], None]) -> Callable[[], None]:
        """Have a function called with each event of a type, on a thread that is there for events alone.

        Events come one after the other, in the order in which things happened. A slow function holds up no
        call: up to 1000 events wait, and those that come on top are dropped. What it raises is logged.

        Returns:
            A function that ends the subscription.

        Raises:
            InvalidOption: That is no type of event, or nothing that can be called.
        """
        if not isinstance(event, type) or not issubclass(event, Event):
            raise checks.refuse("event", "a type of event, such as dspex.CallFinished", event)
        if not callable(function) or inspect.iscoroutinefunction(function):
            raise checks.refuse("function", "a function that takes an event, and no async one", function)
        return self.core.bus.on(event, function)


def _forgotten(core: Core, portal: Portal) -> None:
    """End a runtime that was collected before anybody closed it; any thread may run this, so it only asks."""
    portal.run_last(core.aclose)


def _close_at_exit(reference: weakref.ref[Runtime]) -> None:
    runtime = reference()
    if runtime is not None:
        with contextlib.suppress(Exception):
            runtime.close()
