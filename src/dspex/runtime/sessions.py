"""The runtime's sessions: who it is in the store, and what it keeps alive there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from dspex.errors import DspexError
from dspex.runtime.lines import Lines
from dspex.runtime.storage import Storage
from dspex.telemetry.bus import Bus
from dspex.telemetry.events import SessionCreated, SessionEnded, SessionQuotaNear

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from dspex.session.quotas import Quotas
    from dspex.session.sessions import Wanted
    from dspex.settings import Settings

T = TypeVar("T")
_log = logging.getLogger("dspex.session")
# Seconds between two signs of life, and between two sweeps.
_BEAT = 10.0
# Seconds that a lease holds when its runtime gives no sign of life any more.
_LEASE = 30.0
#: Seconds that a session lives after each use unless somebody says otherwise.
TTL = 3600.0


class Sessions:
    """The way to the sessions in the store. Lives on the runtime's loop.

    Args:
        storage: The store.
        settings: Gives the runtime's settings as they are now.
        bus: Told what becomes of sessions.

    Attributes:
        updates: Where changes of one variable wait for each other, by tenant, session and name.
    """

    def __init__(self, storage: Storage, settings: Callable[[], Settings], bus: Bus) -> None:
        self._storage = storage
        self._settings = settings
        self._bus = bus
        self._beginning: asyncio.Task[None] | None = None
        self._beating: asyncio.Task[None] | None = None
        self._leased: set[str] = set()
        self.updates = Lines()
        # Anonymous sessions by the handles that hold them.
        self._held: weakref.WeakKeyDictionary[object, tuple[str, str]] = weakref.WeakKeyDictionary()
        # Handles are made on any thread, and a dict that grows cannot be gone through.
        self._holding = threading.Lock()

    @property
    def owner(self) -> str:
        """Who this runtime is in the store."""
        return self._storage.owner

    # The store

    async def begin(self) -> None:
        """Have the store open, and its code imported."""
        await self._begun()

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run statements in a transaction; see ``Storage.write``."""
        await self._begun()
        return await self._storage.write(work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run statements that change nothing; see ``Storage.read``."""
        await self._begun()
        return await self._storage.read(work)

    async def _begun(self) -> None:
        if self._beginning is None or (
            self._beginning.done() and (self._beginning.cancelled() or self._beginning.exception())
        ):
            self._beginning = asyncio.create_task(self._begin())
        if not self._beginning.done():
            await asyncio.shield(self._beginning)
        self._beginning.result()

    async def _begin(self) -> None:
        await self._storage.open()
        await self._beat()
        if self._beating is None:
            self._beating = asyncio.create_task(self._go_on(), name="dspex-sessions")

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(_BEAT * random.uniform(0.8, 1.0))
            try:
                await self._beat()
            except DspexError as error:
                _log.warning("the store could not be told that this runtime lives: %s", error.message)
            except Exception:  # noqa: BLE001 (it is logged)
                # Without a beat other processes take this runtime for dead, so it never stops.
                _log.exception("the store could not be told that this runtime lives")

    async def _beat(self) -> None:
        """Give a sign of life, keep what is held, bury who is dead, empty what has expired."""
        from dspex.session import leases, owners, sessions

        now = time.time()
        with self._holding:
            held = sorted(set(self._held.values()))
        leased = sorted(self._leased)

        def told(connection: Connection) -> None:
            owners.register(connection, self.owner, now)
            if leased:
                leases.renew(connection, self.owner, leased, now + _LEASE)
            sessions.renew(connection, held, now)
            sessions.renew_running(connection, self.owner, now)
            owners.reap(connection, now)

        await self._storage.write(told)
        await self._sweep(now)

    async def _sweep(self, now: float) -> bool:
        """Empty all that has expired, some at a time so that others can write in between.

        Returns:
            Whether there was any.
        """
        from dspex.session import sweep

        some = False
        while gone := await self._storage.write(lambda connection: sweep.expired(connection, now)):
            some = True
            for tenant, session_id in gone:
                self._bus.emit(SessionEnded(tenant=tenant, session_id=session_id, cause="expired"))
        return some

    async def bury(self) -> None:
        """Take note now of runtimes that are dead, for a call that waits for what one of them may have."""
        from dspex.session import owners

        now = time.time()
        await self.write(lambda connection: owners.reap(connection, now))

    async def aclose(self) -> None:
        """Leave the store."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait([self._beating])
        if self._beginning is not None:
            await asyncio.wait([self._beginning])
            if not self._beginning.cancelled() and self._beginning.exception() is None:
                from dspex.session import owners

                with contextlib.suppress(DspexError):
                    await self._storage.write(lambda connection: owners.leave(connection, self.owner))

    # Sessions

    async def make_or_find(self, tenant: str, session_id: str | None, given: dict[str, Any]) -> str:
        """Have a session.

        Args:
            tenant: Whose it is; empty for none.
            session_id: Its id, checked; None is a new one.
            given: What was said of it, as columns: ``ttl``, ``record``, ``metadata``, ``lm``. A session that
                is there already is changed to it.

        Returns:
            Its id.

        Raises:
            SessionQuota: It would be one too many.
            StoreError: The store cannot be used.
        """
        return await self._made(tenant, session_id, given, anonymous=False)

    async def ensure(self, tenant: str, session_id: str) -> None:
        """Have a session as it is, or a new one; see ``make_or_find``."""
        await self._made(tenant, session_id, {}, anonymous=False)

    async def anonymous(self, tenant: str) -> str:
        """A new session for a program that was given none; see ``hold``.

        Raises:
            SessionQuota: It would be one too many.
            StoreError: The store cannot be used.
        """
        return await self._made(tenant, None, {"record": "none"}, anonymous=True)

    def hold(self, handle: object, tenant: str, session_id: str) -> None:
        """Keep a session alive for as long as a handle lives, which is held weakly. From any thread."""
        with self._holding:
            self._held[handle] = (tenant, session_id)

    async def _made(
        self, tenant: str, session_id: str | None, given: dict[str, Any], *, anonymous: bool
    ) -> str:
        wanted, limits = await self._wanted(tenant, session_id, given, anonymous)
        from dspex.errors import SessionQuota
        from dspex.session import sessions

        now = time.time()
        try:
            made, near = await self.write(
                lambda connection: sessions.make_or_find(connection, wanted, limits, now)
            )
        except SessionQuota:
            if not await self._sweep(now):  # those of other tenants may have expired before this one's
                raise
            made, near = await self.write(
                lambda connection: sessions.make_or_find(connection, wanted, limits, now)
            )
        if made:
            self._bus.emit(SessionCreated(tenant=tenant, session_id=wanted.id, anonymous=anonymous))
        for one in near:
            self._bus.emit(
                SessionQuotaNear(tenant=tenant, kind=one.kind, sessions=one.sessions, limit=one.limit)
            )
        return wanted.id

    async def _wanted(
        self, tenant: str, session_id: str | None, given: dict[str, Any], anonymous: bool
    ) -> tuple[Wanted, Quotas]:
        await self._begun()  # it imports what is imported here
        from dspex.session.quotas import Quotas
        from dspex.session.sessions import Wanted, new_id

        settings = self._settings()
        limits = Quotas(settings.max_sessions, settings.max_sessions_per_tenant)
        defaults = {"ttl": TTL, "record": "all", "metadata": b"\x80", "lm": None, "budget": None}
        made = new_id() if session_id is None else session_id
        return Wanted(tenant, made, anonymous, given, defaults), limits

    def deleted(self, tenant: str, session_id: str) -> None:
        """Tell that a session was deleted."""
        self._bus.emit(SessionEnded(tenant=tenant, session_id=session_id, cause="deleted"))

    def lease_end(self) -> float:
        """Until when a lease that is taken now holds without being renewed, in seconds since 1970."""
        return time.time() + _LEASE

    def keep_lease(self, call: str) -> None:
        """Renew a call's lease until ``let_lease``."""
        self._leased.add(call)

    def let_lease(self, call: str) -> None:
        """A call's lease was given back, or is to run out."""
        self._leased.discard(call)
