"""The budgets of a runtime: which of them a call is paid from, and what was spent of them so far."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import msgspec

from dspex.errors import BudgetExceeded, PythonTimeout
from dspex.lm.budget import Account, Amount, Purse
from dspex.lm.gates import Gates
from dspex.pool.stats import BudgetStats
from dspex.runtime.question import PaidSession, Question
from dspex.runtime.storage import Storage
from dspex.telemetry.bus import Bus
from dspex.telemetry.events import BudgetRefused
from dspex.types import Budget

if TYPE_CHECKING:
    from dspex.session.spending import Owed
    from dspex.settings import Settings

_log = logging.getLogger("dspex.budget")
# Accounts that are kept when nothing is under way; they are in the store, or their day is over.
_KEPT = 10_000
# Days whose sums stay in the store.
_DAYS = 31
# Seconds after which writing is tried again, once the store has failed.
_AGAIN = 1.0
# Seconds that closing waits for what is still to be written.
_LAST = 5.0

#: Scope, name, day and, of a session, its key and when it was made.
_Key = tuple[str, str, str, int, float]


class Budgets:
    """The accounts of a runtime, on its loop.

    What is spent is known here at once, and written to the store a moment later, several requests together;
    what other processes have spent is read with it.

    Args:
        settings: Gives the runtime's settings as they are now.
        storage: Where the sums are kept.
        gates: Told when a budget is spent, for calls that wait.
        bus: Told of refusals.
        today: Gives the day, in UTC.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        storage: Storage,
        gates: Gates,
        bus: Bus,
        today: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._storage = storage
        self._gates = gates
        self._bus = bus
        self._today = today
        self._accounts: OrderedDict[_Key, Account] = OrderedDict()
        # Those too that are no more kept: as long as a call has one, no other one counts beside it.
        self._in_use: WeakValueDictionary[_Key, Account] = WeakValueDictionary()
        self._owed: dict[_Key, Amount] = {}
        self._loading: dict[_Key, asyncio.Task[None]] = {}
        self._writing: asyncio.Task[None] | None = None
        self._being_written: set[_Key] = set()
        self._swept: date | None = None

    async def purse(self, question: Question) -> Purse | None:
        """What the LM requests of a call are paid from; None when nothing limits them.

        Raises:
            StoreError: What was spent so far cannot be read.
        """
        settings, accounts = self._settings(), []
        limits: Mapping[str, Budget] = settings.budgets
        own = question.caller.budget or limits.get("call")
        if own is not None:
            accounts.append(question.own.account(own))
        session, tenant = question.session, question.caller.tenant
        if session is not None and (limit := session.budget or limits.get("session")) is not None:
            accounts.append(self._of_session(session, limit))
        by_tenant = settings.tenant_budgets.get(tenant) or limits.get("tenant")
        day = "" if by_tenant is None and "day" not in limits else self._today().strftime("%Y-%m-%d")
        if by_tenant is not None:
            accounts.append(await self._of_day("tenant", tenant, day, by_tenant, question))
        if "day" in limits:
            accounts.append(await self._of_day("day", "", day, limits["day"], question))
        return Purse(accounts, self._refused) if accounts else None

    def stats(self) -> list[BudgetStats]:
        """How the budgets of sessions, tenants and this day stand; any thread may ask."""
        today = self._today().strftime("%Y-%m-%d")
        return [
            BudgetStats(a.scope, a.name, a.day or None, a.limit, *a.spent, a.reserved.tokens, a.reserved.cost)
            for a in list(self._accounts.values())
            if not a.day or a.day == today
        ]

    async def written(self) -> None:
        """Wait until all that was spent is in the store."""
        while self._writing is not None and not self._writing.done():
            await asyncio.wait([self._writing])

    async def aclose(self) -> None:
        """Write what is still to be written."""
        if self._owed and (self._writing is None or self._writing.done()):
            self._writing = asyncio.create_task(self._write())
        if self._writing is not None:
            await asyncio.wait([self._writing], timeout=_LAST)
            self._writing.cancel()
        if self._owed or self._being_written:
            _log.warning("what was spent last may be forgotten: the store did not take it in time")

    # Accounts

    def _of_session(self, session: PaidSession, limit: Budget) -> Account:
        key = ("session", session.id, "", session.key, session.created)
        account = self._account(key, limit)
        # What was read may be older than what is known here; a session's sums only grow.
        tokens, cost = session.spent
        account.spent = Amount(max(account.spent.tokens, tokens), max(account.spent.cost, cost))
        return account

    async def _of_day(self, scope: str, name: str, day: str, limit: Budget, question: Question) -> Account:
        key = (scope, name, day, 0, 0.0)
        if key not in self._in_use and self._storage.outlives:
            loading = self._loading.get(key)
            if loading is None:
                loading = self._loading[key] = asyncio.create_task(self._load(key, limit))
                loading.add_done_callback(lambda done: self._loaded(key, done))
            await _in_time(loading, question)
        return self._account(key, limit)

    def _loaded(self, key: _Key, done: asyncio.Task[None]) -> None:
        del self._loading[key]
        if not done.cancelled():
            done.exception()  # nobody may be left who waits for it

    async def _load(self, key: _Key, limit: Budget) -> None:
        scope, name, day, _, _ = key
        await self._storage.open()
        from dspex.session import spending

        found = await self._storage.read(lambda connection: spending.read(connection, scope, name, day))
        self._account(key, limit).spent = Amount(*found)

    def _account(self, key: _Key, limit: Budget) -> Account:
        account = self._in_use.get(key)
        if account is None:
            account = self._in_use[key] = Account(*key[:3], limit, on_spent=partial(self._spent, key))
        if key not in self._accounts:
            self._accounts[key] = account
            self._forget_oldest()
        self._accounts.move_to_end(key)
        account.limit = limit
        return account

    def _forget_oldest(self) -> None:
        today = self._today().strftime("%Y-%m-%d")
        for key, account in list(self._accounts.items())[:4]:
            is_over = bool(account.day) and account.day != today
            too_many = len(self._accounts) > _KEPT and (account.scope == "session" or self._storage.outlives)
            idle = not account.open and key not in self._owed and key not in self._being_written
            if idle and (is_over or too_many):
                del self._accounts[key]

    # What happens to them

    def _refused(self, error: BudgetExceeded) -> None:
        said = error.details
        named = {name: said[name] for name in ("scope", "name", "unit", "limit", "spent", "reserved")}
        self._bus.emit(BudgetRefused(**named))

    def _spent(self, key: _Key, account: Account, amount: Amount) -> None:
        if account.gone is not None:
            self._gates.tell_refusal()
        if account.scope != "session" and not self._storage.outlives:
            return
        self._owed[key] = self._owed.get(key, Amount()).plus(amount)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        """Write until nothing is owed; what comes meanwhile is written together."""
        while self._owed:
            taken, self._owed = self._owed, {}
            self._being_written = set(taken)
            try:
                await self._write_these(taken)
            except Exception as error:  # noqa: BLE001 (what was spent is not to be forgotten)
                _log.warning("what was spent could not be written, and is tried again: %s", error)
                for key, amount in taken.items():
                    self._owed[key] = self._owed.get(key, Amount()).plus(amount)
                await asyncio.sleep(_AGAIN)
            finally:
                self._being_written = set()

    async def _write_these(self, taken: Mapping[_Key, Amount]) -> None:
        await self._storage.open()
        from dspex.session import spending

        keys = sorted(taken)  # every process in the same order, so that none waits for another in a circle
        owed = [_owed(key, taken[key]) for key in keys]
        today = self._today()
        oldest = None if today.date() == self._swept else (today - timedelta(days=_DAYS)).strftime("%Y-%m-%d")
        sums = await self._storage.write(lambda connection: spending.add(connection, owed, oldest))
        self._swept = today.date()
        for key, found in zip(keys, sums, strict=True):
            account = self._in_use.get(key)
            if account is not None and found is not None:
                # Other processes have written there, too; what came meanwhile is not among it.
                account.spent = Amount(*found).plus(self._owed.get(key, Amount()))


async def _in_time(loading: asyncio.Task[None], question: Question) -> None:
    """Wait for what was spent so far, within the call's deadline."""
    try:
        async with asyncio.timeout(question.left()):
            await asyncio.shield(loading)
    except TimeoutError:
        elapsed = round(time.monotonic() - question.asked, 3)
        raise PythonTimeout(
            f"the store did not tell within the call's {elapsed:.3g} s what was spent of its budgets",
            details={"phase": "queued", "elapsed": elapsed, "killed": False},
        ) from None


def _owed(key: _Key, amount: Amount) -> Owed:
    from dspex.session.spending import Owed

    scope, name, day, session, _ = key
    return Owed(scope, "" if session else name, day, session, *amount)


def encoded(budget: Budget) -> bytes:
    """A session's budget as it is stored."""
    return msgspec.msgpack.encode(budget)


def decoded(stored: bytes | None) -> Budget | None:
    """A session's budget that was stored."""
    return None if stored is None else msgspec.msgpack.decode(stored, type=Budget)
