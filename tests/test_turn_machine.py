"""The store's turns against a model: opened, closed, undone and emptied in any order, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Connection, delete

from dspex.errors import DspexError, InvalidInput, UnknownSession
from dspex.session import owners, past, sessions, turns
from dspex.session.place import place_of
from dspex.session.quotas import Quotas
from dspex.session.records import Insights, Turn
from dspex.session.sessions import Wanted
from dspex.session.store import Store
from dspex.session.tables import metadata
from dspex.session.turns import Closing, Opened, Opening
from dspex.types import Usage
from dspex.wire.values import encode

T = TypeVar("T")
IDS = st.sampled_from(["x", "y"])
OWNERS = st.sampled_from(["here", "there"])
SELDOM = st.sampled_from([False, False, True])
RECORDS = {"x": "all", "y": "shape"}


@dataclass
class Said:
    """What the model knows of a turn."""

    number: int
    owner: str
    status: str
    value: int
    small: bool


@dataclass
class Kept:
    """What the model knows of a session."""

    last: int = 0
    turns: list[Said] = field(default_factory=list)
    answered: int = 0
    failed: int = 0
    tokens: int = 0
    lease: tuple[str, str] | None = None


@dataclass
class Running:
    """A call that runs."""

    session: str
    kept: Kept
    said: Said
    opened: Opened
    call: str
    leased: bool
    over: bool = False


class Machine(RuleBasedStateMachine):
    """Does things at random to the store and to lists, and compares."""

    runner: asyncio.Runner
    store: Store
    examples: int
    calls: Bundle[Running] = Bundle("calls")

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
        self.now, self.asked = 1_000_000.0, 0
        self.model: dict[str, Kept] = {}
        self.living: set[str] = set()
        for name in ("x", "y"):
            self.made(name)
        for owner in ("here", "there"):
            self.comes(owner)

    @rule(name=IDS)
    def made(self, name: str) -> None:
        defaults = {"ttl": None, "record": RECORDS[name], "metadata": b"\x80", "lm": None}
        wanted = Wanted("", name, False, {}, defaults)
        made, _ = self.write(lambda c: sessions.make_or_find(c, wanted, Quotas(9, 9), self.now))
        assert made is (name not in self.model)
        self.model.setdefault(name, Kept())

    # Who runs turns

    @rule(owner=OWNERS)
    def comes(self, owner: str) -> None:
        self.write(lambda connection: owners.register(connection, owner, self.now))
        self.living.add(owner)

    @rule(owner=OWNERS, now=SELDOM)
    def goes(self, owner: str, now: bool) -> None:
        if not now:
            return
        self.write(lambda connection: owners.leave(connection, owner))
        self.living.discard(owner)
        for kept in self.model.values():
            for said in kept.turns:
                if said.owner == owner and said.status == "started":
                    said.status = "interrupted"
            if kept.lease is not None and kept.lease[0] == owner:
                kept.lease = None

    # Turns

    @rule(target=calls, name=IDS, owner=OWNERS, leased=st.booleans(), small=st.booleans())
    def opened(self, name: str, owner: str, leased: bool, small: bool) -> Any:
        call = self.open(name, owner, leased, small)
        return multiple() if call is None else call

    @rule(name=IDS, owner=OWNERS)
    def talked(self, name: str, owner: str) -> None:
        call = self.open(name, owner, True, True)
        if call is not None:
            self.close(call, "ok", True)

    def open(self, name: str, owner: str, leased: bool, small: bool) -> Running | None:
        self.now += 1.0
        self.asked += 1
        call, value = f"call {self.asked}", self.asked
        inputs = b"".join(encode({"q": value})[0])
        opening = Opening(
            "",
            name,
            owner,
            call,
            None,
            None,
            "m",
            inputs if small else None,
            b"\x80",
            self.now,
            None,
            self.now + 1e6 if leased else None,
            100 if leased else 0,
        )
        got = self.outcome(lambda connection: turns.open_turn(connection, opening))
        kept = self.model.get(name)
        if kept is None:
            assert got is UnknownSession
            return None
        free = kept.lease is None or kept.lease[0] in {owner} | ({"here", "there"} - self.living)
        if leased and not free:
            assert got is None
            return None
        kept.last += 1
        assert got.number == kept.last
        small = small and RECORDS[name] == "all"
        if leased:
            kept.lease = (owner, call)
            told = [said for said in reversed(kept.turns) if said.status == "ok" and said.small]
            assert [one.number for one in got.history] == [said.number for said in told]
        said = Said(kept.last, owner, "started", value, small)
        kept.turns.append(said)
        return Running(name, kept, said, got, call, leased)

    @rule(call=calls, status=st.sampled_from(["ok", "failed", "cancelled"]), small=st.booleans())
    def closed(self, call: Running, status: str, small: bool) -> None:
        self.close(call, status, small)

    def close(self, call: Running, status: str, small: bool) -> None:
        self.now += 1.0
        ok = status == "ok"
        closing = Closing(
            call.opened,
            call.call,
            call.said.owner,
            status,
            self.now,
            1.0,
            outputs=b"".join(encode({"a": call.said.value})[0]) if ok and small else None,
            shape=b"\x80" if ok else None,
            usage=Usage(1, 2),
            error_code="python_error" if status == "failed" else None,
            leased=call.leased,
        )
        got = self.write(lambda connection: turns.close_turn(connection, closing))
        kept, said = call.kept, call.said
        there = self.model.get(call.session) is kept and said in kept.turns and not call.over
        if kept.lease == (said.owner, call.call):
            kept.lease = None
        assert got is there
        call.over = True
        if there:
            said.status, said.small = status, said.small and (small or not ok)
            kept.answered += ok
            kept.failed += not ok
            kept.tokens += 3

    @rule(name=IDS)
    def undone(self, name: str) -> None:
        got = self.outcome(lambda connection: past.undo(connection, "", name, self.now))
        kept = self.model.get(name)
        if kept is None:
            assert got is UnknownSession
        elif not kept.turns:
            assert got is None
        elif self.shown(kept.turns[-1]) == "running":
            assert got is InvalidInput
        else:
            assert got == kept.turns.pop().number

    @rule(name=IDS, now=SELDOM)
    def emptied(self, name: str, now: bool) -> None:
        if not now:
            return
        got = self.outcome(lambda connection: sessions.reset(connection, "", name, self.now))
        kept = self.model.get(name)
        assert got is (None if kept else UnknownSession)
        if kept is not None:
            kept.turns.clear()
            kept.answered = kept.failed = kept.tokens = 0

    @rule(name=IDS, now=SELDOM)
    def deleted(self, name: str, now: bool) -> None:
        if not now:
            return
        got = self.outcome(lambda connection: sessions.end(connection, "", name))
        assert got is (None if self.model.pop(name, None) else UnknownSession)

    # What holds

    def shown(self, said: Said) -> str:
        if said.status != "started":
            return said.status
        return "running" if said.owner in self.living else "interrupted"

    def stored(self, connection: Connection) -> dict[str, tuple[list[Turn], Insights]]:
        return {
            name: (
                past.listed(connection, "", name, self.now, None, None),
                past.insights(connection, "", name, self.now),
            )
            for name in self.model
        }

    @invariant()
    def all_is_as_in_the_model(self) -> None:
        stored = self.write(self.stored)
        for name, kept in self.model.items():
            found, came_to = stored[name]
            assert [(turn.number, turn.status) for turn in found] == [
                (said.number, self.shown(said)) for said in kept.turns
            ]
            for turn, said in zip(found, kept.turns, strict=True):
                if said.small and turn.status == "ok":
                    assert (turn.inputs, turn.outputs) == ({"q": said.value}, {"a": said.value})
            open_ones = [self.shown(said) for said in kept.turns if self.shown(said) in _OPEN]
            assert came_to.answered == kept.answered
            assert came_to.failed == kept.failed + open_ones.count("interrupted")
            assert came_to.turns == kept.answered + kept.failed + len(open_ones)
            assert came_to.tokens == kept.tokens


_OPEN = {"running", "interrupted"}


@pytest.fixture(params=["memory", "postgresql"])
def machine(request: pytest.FixtureRequest) -> Iterator[type[Machine]]:
    where = "memory" if request.param == "memory" else request.getfixturevalue("database")
    with asyncio.Runner() as runner:
        store = Store(place_of(where))
        runner.run(store.open())
        examples = 25 if where == "memory" else 8
        yield type("Machine", (Machine,), {"runner": runner, "store": store, "examples": examples})
        runner.run(store.aclose())


def test_turns_do_as_the_model_does(machine: type[Machine]) -> None:
    """If this failed, some order of asking, answering and undoing would lose, double or mix up turns."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=machine.examples,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
