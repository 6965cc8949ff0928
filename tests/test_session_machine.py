"""The store's sessions against a model: whatever is done in whatever order, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import Connection, delete, select

from dspex.errors import DspexError, SessionExpired, SessionQuota, UnknownSession
from dspex.session import sessions, sweep, variables
from dspex.session.place import place_of
from dspex.session.quotas import Quotas
from dspex.session.sessions import Wanted
from dspex.session.store import Store
from dspex.session.tables import counts, metadata
from dspex.session.tables import sessions as session_rows
from dspex.session.tables import variables as stored_values
from dspex.wire.values import decode, encode

T = TypeVar("T")
TENANTS = st.sampled_from(["", "'b"])
IDS = st.sampled_from(["x", "é"])
NAMES = st.sampled_from(["n", "🎉"])
LIMITS = Quotas(3, 2)
TTLS = st.sampled_from([None, 5.0, 5.0, 50.0])


@dataclass
class Kept:
    """What the model knows of a session."""

    ttl: float | None
    expires: float | None
    swept: bool = False
    values: dict[str, int] = field(default_factory=dict)


class Machine(RuleBasedStateMachine):
    """Does things at random to the store and to a dict, and compares."""

    runner: asyncio.Runner
    store: Store

    def write(self, work: Callable[[Connection], T]) -> T:
        return self.runner.run(self.store.write(work))

    def outcome(self, work: Callable[[Connection], Any]) -> Any:
        try:
            return self.write(work)
        except DspexError as error:
            return type(error)

    @initialize()
    def empty(self) -> None:
        def work(connection: Connection) -> None:
            for table in reversed(metadata.sorted_tables):
                connection.execute(delete(table))

        self.write(work)
        self.now = 1_000_000.0
        self.model: dict[tuple[str, str], Kept] = {}

    # The model

    def state(self, tenant: str, name: str) -> Kept | type[DspexError]:
        kept = self.model.get((tenant, name))
        if kept is None or (
            kept.swept and kept.expires is not None and kept.expires <= self.now - sweep.TOLD
        ):
            return UnknownSession if kept is None else SessionExpired
        if kept.swept or (kept.expires is not None and kept.expires <= self.now):
            return SessionExpired
        return kept

    def counted(self, tenant: str | None = None) -> int:
        return sum(not kept.swept for (of, _), kept in self.model.items() if tenant in {None, of})

    def used(self, kept: Kept) -> None:
        if kept.ttl is not None:
            kept.expires = max(self.now + kept.ttl, kept.expires or 0.0)

    # What is done

    @rule(seconds=st.sampled_from([1.0, 5.0, 60.0, -10.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds

    @rule(tenant=TENANTS, name=IDS, ttl=TTLS, given=st.booleans())
    def made_or_found(self, tenant: str, name: str, ttl: float | None, given: bool) -> None:
        state = self.state(tenant, name)
        told = {"ttl": ttl} if given else {}
        wanted = Wanted(
            tenant, name, False, told, {"ttl": 50.0, "record": "all", "metadata": b"\x80", "lm": None}
        )
        got = self.outcome(lambda connection: sessions.make_or_find(connection, wanted, LIMITS, self.now))
        if isinstance(state, Kept):
            assert got == (False, [])
            state.ttl = ttl if given else state.ttl
            state.expires = None if state.ttl is None else self.now + state.ttl
            return
        old = self.model.pop((tenant, name), None)
        if self.counted() >= LIMITS.all or self.counted(tenant) >= LIMITS.tenant:
            assert got is SessionQuota
            if old is not None:  # nothing of it was written
                self.model[tenant, name] = old
            return
        assert got[0] is True
        lives = ttl if given else 50.0
        self.model[tenant, name] = Kept(lives, None if lives is None else self.now + lives)

    @rule(tenant=TENANTS, name=IDS)
    def touched(self, tenant: str, name: str) -> None:
        state = self.state(tenant, name)
        got = self.outcome(lambda connection: sessions.touch(connection, tenant, name, self.now).expires)
        if isinstance(state, Kept):
            self.used(state)
            assert got == state.expires
        else:
            assert got is state

    @rule(tenant=TENANTS, name=IDS, variable=NAMES, value=st.integers(0, 9))
    def value_set(self, tenant: str, name: str, variable: str, value: int) -> None:
        state, encoded = self.state(tenant, name), b"".join(encode(value)[0])
        got = self.outcome(
            lambda connection: variables.write(connection, tenant, name, variable, encoded, self.now)
        )
        assert got is (None if isinstance(state, Kept) else state)
        if isinstance(state, Kept):
            self.used(state)
            state.values[variable] = value

    @rule(tenant=TENANTS, name=IDS, variable=NAMES)
    def value_incremented(self, tenant: str, name: str, variable: str) -> None:
        def work(connection: Connection) -> bool:
            stored = variables.read(connection, tenant, name, variable, self.now)
            value = b"".join(encode(1 if stored is None else decode(stored.value) + 1)[0])
            version = None if stored is None else stored.version
            wrong = 7_000 if version is None else None
            assert not variables.swap(connection, tenant, name, variable, value, self.now, version=wrong)
            return variables.swap(connection, tenant, name, variable, value, self.now, version=version)

        state, got = self.state(tenant, name), self.outcome(work)
        assert got is (True if isinstance(state, Kept) else state)
        if isinstance(state, Kept):
            self.used(state)
            state.values[variable] = state.values.get(variable, 0) + 1

    @rule(tenant=TENANTS, name=IDS, variable=NAMES)
    def value_removed(self, tenant: str, name: str, variable: str) -> None:
        state = self.state(tenant, name)
        got = self.outcome(lambda connection: variables.remove(connection, tenant, name, variable, self.now))
        if isinstance(state, Kept):
            self.used(state)
            assert got is (state.values.pop(variable, None) is not None)
        else:
            assert got is state

    @rule(tenant=TENANTS, name=IDS)
    def emptied(self, tenant: str, name: str) -> None:
        state = self.state(tenant, name)
        got = self.outcome(lambda connection: sessions.reset(connection, tenant, name, self.now))
        assert got is (None if isinstance(state, Kept) else state)
        if isinstance(state, Kept):
            self.used(state)
            state.values.clear()

    @rule(tenant=TENANTS, name=IDS)
    def deleted(self, tenant: str, name: str) -> None:
        got = self.outcome(lambda connection: sessions.end(connection, tenant, name))
        assert got is (None if self.model.pop((tenant, name), None) else UnknownSession)

    @rule()
    def swept(self) -> None:
        due = {
            key
            for key, kept in self.model.items()
            if not kept.swept and kept.expires is not None and kept.expires <= self.now
        }
        assert set(self.write(lambda connection: sweep.expired(connection, self.now))) == due
        for key in due:
            self.model[key].swept = True
            self.model[key].values.clear()

    @rule()
    def a_week_later(self) -> None:
        self.now += sweep.TOLD + 100
        self.swept()  # what has now expired is told of for another week
        gone = [
            key
            for key, kept in self.model.items()
            if kept.swept and kept.expires is not None and kept.expires <= self.now - sweep.TOLD
        ]
        self.swept()
        for key in gone:
            del self.model[key]

    # What holds

    @invariant()
    def all_is_as_in_the_model(self) -> None:
        def work(connection: Connection) -> tuple[dict[Any, Any], dict[Any, int]]:
            found = {}
            for tenant in ("", "'b"):
                for told in sessions.listed(connection, tenant, self.now, 100, None):
                    stored = connection.execute(
                        select(stored_values.c.name, stored_values.c.value).where(
                            stored_values.c.session
                            == select(session_rows.c.key)
                            .where(session_rows.c.tenant == tenant, session_rows.c.id == told.id)
                            .scalar_subquery()
                        )
                    )
                    values = {row.name: decode(row.value) for row in stored}
                    found[tenant, told.id] = (told.ttl, told.expires, values)
            taken = {(row.kind, row.name): row.sessions for row in connection.execute(select(counts))}
            return found, taken

        found, taken = self.write(work)
        assert found == {
            key: (kept.ttl, kept.expires, kept.values)
            for key, kept in self.model.items()
            if isinstance(self.state(*key), Kept)
        }
        assert taken.get(("all", ""), 0) == self.counted()
        for tenant in ("", "'b"):
            assert taken.get(("tenant", tenant), 0) == self.counted(tenant)


@pytest.fixture(params=["memory", "postgresql"])
def machine(request: pytest.FixtureRequest) -> Iterator[type[Machine]]:
    where = "memory" if request.param == "memory" else request.getfixturevalue("database")
    with asyncio.Runner() as runner:
        store = Store(place_of(where))
        runner.run(store.open())
        yield type("Machine", (Machine,), {"runner": runner, "store": store})
        runner.run(store.aclose())


def test_sessions_do_as_the_model_does(machine: type[Machine]) -> None:
    """If this failed, some order of making, using, expiring and deleting would lose or mix up sessions."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=30,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
