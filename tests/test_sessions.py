"""Sessions and their variables, as an adapter's users have them."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import math
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import update

import dspex
from dspex.session.tables import sessions as rows
from dspex.telemetry.events import SessionCreated, SessionEnded, SessionQuotaNear
from dspex.testing import InProcessRuntime, ScriptedLM
from tests.processes import until

MODEST = dspex.Settings(max_variable=2048)


@pytest.fixture(scope="module")
def runtime() -> Iterator[InProcessRuntime]:
    with InProcessRuntime(settings=MODEST) as opened:
        yield opened


@pytest.fixture
def adapter(runtime: InProcessRuntime, request: pytest.FixtureRequest) -> dspex.DSPyAdapter:
    """A tenant for each test, so that none sees another's sessions."""
    return runtime.adapter(tenant=request.node.name[:200])


def _age(runtime: dspex.Runtime, session_id: str, seconds: float) -> None:
    """Have a session's end come nearer, as if so much time had gone by."""

    def work(connection: Any) -> None:
        connection.execute(
            update(rows).where(rows.c.id == session_id).values(expires=rows.c.expires - seconds)
        )

    runtime.portal.run(lambda: runtime.core.sessions.write(work), "-")


def test_a_session_is_found_again(adapter: dspex.DSPyAdapter) -> None:
    """If this failed, a service that is asked twice for a user would begin with nothing the second time."""
    made = adapter.session("user-42", ttl=60, metadata={"plan": "pro"}, record="shape")
    made.set("name", "Ada")
    found = adapter.session("user-42")
    assert found.get("name") == "Ada"
    told = found.info()
    assert (told.ttl, told.metadata, told.record) == (60, {"plan": "pro"}, "shape")
    assert adapter.session("user-42", ttl=None).info().expires is None


def test_ids_that_are_not_given_cannot_be_guessed(adapter: dspex.DSPyAdapter) -> None:
    """If this failed, one user could name another's session."""
    ids = {adapter.session().id for _ in range(20)}
    assert len(ids) == 20
    assert all(len(made) >= 22 for made in ids)


@pytest.mark.parametrize(
    "name", ["é", "🎉 日本", "x", "y" * 200, "../", "'; drop table x; --", " ", "%_", "A"]
)
def test_odd_ids_are_ids(adapter: dspex.DSPyAdapter, name: str) -> None:
    """If this failed, an id with such characters would be lost, or be taken for another."""
    adapter.session(name).set(name, name)
    assert adapter.session(name).get(name) == name
    assert [told.id for told in adapter.sessions()] == [name]


@pytest.mark.parametrize("name", ["", "y" * 201, "a\0b", "\ud800", 7, b"x"])
def test_what_is_no_id_is_refused(adapter: dspex.DSPyAdapter, name: Any) -> None:
    """If this failed, the database would refuse it with an error that says nothing to a caller."""
    with pytest.raises(dspex.InvalidInput):
        adapter.session(name)
    with pytest.raises(dspex.InvalidInput):
        adapter.session("fine").get(name) if name is not None else None
    with pytest.raises(dspex.InvalidInput):
        adapter.session("fine").set(name, 1)


@pytest.mark.parametrize("ttl", [0, -1, math.inf, math.nan, "60", True, 1e300])
def test_what_is_no_ttl_is_refused(adapter: dspex.DSPyAdapter, ttl: Any) -> None:
    """If this failed, a session could be expired when it is made, or its end be no number."""
    with pytest.raises(dspex.InvalidOption):
        adapter.session("s", ttl=ttl)
    assert adapter.sessions() == []


def test_metadata_that_cannot_be_kept_is_refused(adapter: dspex.DSPyAdapter) -> None:
    """If this failed, a session would be made of which something that was said of it is missing."""
    with pytest.raises(dspex.InvalidInput):
        adapter.session("s", metadata={"lock": threading.Lock()})
    with pytest.raises(dspex.PayloadTooLarge):
        adapter.session("s", metadata={"text": "x" * 70_000})
    assert adapter.sessions() == []


def test_expiry_slides_with_each_use(runtime: InProcessRuntime, adapter: dspex.DSPyAdapter) -> None:
    """If this failed, a session that is read all the time would end in the middle of its use."""
    session = adapter.session("s", ttl=1000)
    session.set("a", 1)
    for use in (lambda: session.get("a"), session.variables, lambda: session.set("a", 2)):
        _age(runtime, "s", 900)
        near = session.info().expires
        use()
        later = session.info().expires
        assert near is not None
        assert later is not None
        assert later > near + 800


def test_expired_is_not_unknown(runtime: InProcessRuntime, adapter: dspex.DSPyAdapter) -> None:
    """If this failed, a caller could not tell an old session from a wrong id, or would see old values."""
    session = adapter.session("s", ttl=100)
    session.set("a", 1)
    _age(runtime, "s", 200)
    with pytest.raises(dspex.SessionExpired):
        session.get("a")
    runtime.portal.run(lambda: runtime.core.sessions._sweep(time.time()), "-")
    with pytest.raises(dspex.SessionExpired):
        session.update("a", lambda value: value)
    assert adapter.sessions() == []
    assert adapter.session("s").get("a") is None
    session.delete()
    with pytest.raises(dspex.UnknownSession):
        session.info()
    with pytest.raises(dspex.UnknownSession):
        session.delete()


def test_tenants_do_not_see_each_other(runtime: InProcessRuntime) -> None:
    """If this failed, one customer could read or delete what is another's."""
    ours, theirs, nobodys = (
        runtime.adapter(tenant="ours"),
        runtime.adapter(tenant="theirs"),
        runtime.adapter(),
    )
    mine = ours.session("same")
    mine.set("secret", 1)
    assert theirs.session("same").get("secret") is None
    assert nobodys.session("same").get("secret") is None
    theirs.session("same").delete()
    assert mine.get("secret") == 1
    with pytest.raises(dspex.UnknownSession):
        theirs.sessions(after="same")


def test_a_list_goes_on_where_it_ended(adapter: dspex.DSPyAdapter) -> None:
    """If this failed, whoever goes through all sessions would miss some or see some twice."""
    for number in range(7):
        adapter.session(f"s{number}")
    adapter.session("s2").set("used", 1)
    first = adapter.sessions(limit=3)
    assert [told.id for told in first] == ["s2", "s6", "s5"]
    rest = adapter.sessions(after=first[-1].id)
    assert [told.id for told in rest] == ["s4", "s3", "s1", "s0"]


def test_values_come_back_as_they_were(adapter: dspex.DSPyAdapter) -> None:
    """If this failed, a session could keep less than a call can take."""
    session = adapter.session("s")
    values = {
        "date": dt.date(2026, 1, 2),
        "price": Decimal("1.10"),
        "bytes": b"\0\xff",
        "nested": {"a": [1, (2, 3), {4}, None, math.inf]},
        "image": dspex.Image("data:image/png;base64,iVBORw0KGgo="),
    }
    for name, value in values.items():
        session.set(name, value)
    stored = session.variables()
    assert {name: stored[name] for name in values if name != "image"} == {
        name: value for name, value in values.items() if name != "image"
    }
    assert sorted(stored) == sorted(values)
    with pytest.raises(dspex.InvalidInput):
        session.set("lock", threading.Lock())
    with pytest.raises(dspex.PayloadTooLarge):
        session.set("large", "x" * 4096)
    with pytest.raises(dspex.PayloadTooLarge):
        session.update("date", lambda _: "x" * 4096)
    assert session.get("date") == values["date"]
    assert session.unset("date")
    assert not session.unset("date")
    assert session.get("date", "none") == "none"


def test_increments_of_threads_are_all_counted(adapter: dspex.DSPyAdapter) -> None:
    """If this failed, of two changes at once one would be lost."""
    session = adapter.session("s")
    threads = [threading.Thread(target=session.update, args=("n", lambda n: n + 1, 0)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert session.get("n") == 20


def test_increments_of_tasks_are_all_counted(runtime: InProcessRuntime, adapter: dspex.DSPyAdapter) -> None:
    """If this failed, async functions would lose changes, or a cancelled one would stand in the way."""
    session = adapter.session("s")

    async def more(n: int) -> int:
        await asyncio.sleep(0)
        return n + 1

    async def all_at_once() -> None:
        tasks = [asyncio.create_task(session.aupdate("n", more, 0)) for _ in range(30)]
        await asyncio.sleep(0)
        for task in tasks[20:]:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        made = [one for one in ended if isinstance(one, int)]
        assert len(made) >= 20
        assert await session.aget("n") >= len(made)

    asyncio.run(all_at_once())
    until(lambda: len(runtime.core.sessions.updates) == 0)


def test_a_change_that_raises_changes_nothing(adapter: dspex.DSPyAdapter) -> None:
    """If this failed, an error of the caller's own would destroy a value, or keep the next one waiting."""
    session = adapter.session("s")
    session.set("n", 5)
    with pytest.raises(ZeroDivisionError):
        session.update("n", lambda n: n / 0)

    async def later(n: int) -> int:
        return n

    with pytest.raises(TypeError, match="aupdate"):
        session.update("n", later)
    assert session.update("n", lambda n: n + 1) == 6


def test_reset_empties_and_export_has_everything(adapter: dspex.DSPyAdapter) -> None:
    """If this failed, something would be left of a session that was emptied, or be missing in its export."""
    session = adapter.session("s", metadata={"since": dt.date(2026, 1, 2)})
    session.set("when", dt.date(2026, 1, 2))
    with ScriptedLM([{"reply": "Hello, Ada."}]) as lm:
        session.chat("I am Ada.", lm=lm)
    told = json.loads(json.dumps(session.export()))
    assert told["variables"] == {"when": "2026-01-02"}
    assert told["session"]["metadata"] == {"since": "2026-01-02"}
    assert [turn["outputs"] for turn in told["turns"]] == [{"reply": "Hello, Ada."}]
    session.reset()
    assert session.variables() == {}
    assert session.turns() == []
    assert session.insights().turns == 0


def test_a_session_deleted_while_a_call_runs(adapter: dspex.DSPyAdapter) -> None:
    """If this failed, an answer that was paid for would be lost with the session, or come to life in it."""
    session = adapter.session("s")

    def deletes(_: Any) -> dict[str, str]:
        session.delete()
        return {"reply": "late"}

    with ScriptedLM(deletes) as lm:
        answer = session.chat("?", lm=lm)
    assert answer.reply == "late"
    assert answer.recorded is False
    assert adapter.sessions() == []


def test_a_call_that_runs_keeps_its_session(runtime: InProcessRuntime, adapter: dspex.DSPyAdapter) -> None:
    """If this failed, a long call would end in a session that has meanwhile expired and been emptied."""
    session = adapter.session("s", ttl=100)

    def long(_: Any) -> dict[str, str]:
        _age(runtime, "s", 200)
        runtime.portal.run(runtime.core.sessions._beat, "-")
        return {"reply": "at last"}

    with ScriptedLM(long) as lm:
        answer = session.chat("?", lm=lm, timeout=None)
    assert answer.recorded is True
    assert [turn.status for turn in session.turns()] == ["ok"]


def test_quotas_hold_and_are_told_of_early() -> None:
    """If this failed, one tenant could fill the store, or nobody would know before it is full."""
    settings = dspex.Settings(max_sessions=8, max_sessions_per_tenant=5)
    with InProcessRuntime(settings=settings) as runtime:
        told: list[Any] = []
        for kind in (SessionCreated, SessionEnded, SessionQuotaNear):
            runtime.on(kind, told.append)
        one, two = runtime.adapter(tenant="one"), runtime.adapter(tenant="two")
        for number in range(5):
            one.session(f"s{number}", ttl=100)
        with pytest.raises(dspex.SessionQuota):
            one.session("more")
        assert len(one.sessions()) == 5
        for number in range(3):
            two.session(f"s{number}")
        with pytest.raises(dspex.SessionQuota):
            two.session("more")
        one.session("s0")  # it is there already
        _age(runtime, "s1", 200)
        assert two.session("more").id == "more"  # what has expired makes room
        two.session("more").delete()
        assert two.session("again").id == "again"
        until(lambda: sum(isinstance(event, SessionEnded) for event in told) == 2)
        near = [(event.kind, event.sessions) for event in told if isinstance(event, SessionQuotaNear)]
        assert near[0] == ("tenant", 4)
        assert ("all", 7) in near
        assert [event.cause for event in told if isinstance(event, SessionEnded)] == ["expired", "deleted"]


def test_a_handle_keeps_its_anonymous_session() -> None:
    """If this failed, a program in a service that is idle for a night would be gone in the morning."""

    class Handle:
        pass

    with InProcessRuntime() as runtime:
        sessions, handle = runtime.core.sessions, Handle()
        made = runtime.portal.run(lambda: sessions.anonymous(""), "-")
        sessions.hold(handle, "", made)
        session = runtime.adapter().session(made)
        _age(runtime, made, 3500)
        runtime.portal.run(sessions._beat, "-")
        expires = session.info().expires
        assert expires is not None
        assert expires > time.time() + 3000
        del handle
        _age(runtime, made, 4000)
        runtime.portal.run(sessions._beat, "-")
        with pytest.raises(dspex.SessionExpired):
            session.info()


def test_a_session_begun_anew_is_counted_once() -> None:
    """If this failed, users who come back after their sessions have expired would use up the quota."""
    with InProcessRuntime(settings=dspex.Settings(max_sessions_per_tenant=2)) as runtime:
        adapter = runtime.adapter()
        adapter.session("s", ttl=100)
        for _ in range(3):
            _age(runtime, "s", 200)
            adapter.session("s", ttl=100)
        adapter.session("t")
        with pytest.raises(dspex.SessionQuota):
            adapter.session("u")


def test_a_use_does_not_cut_short_what_a_call_needs(
    runtime: InProcessRuntime, adapter: dspex.DSPyAdapter
) -> None:
    """If this failed, setting a variable during a call would have the session end before the call."""
    session = adapter.session("s", ttl=10)
    seen: list[float] = []

    def looks(_: Any) -> dict[str, str]:
        session.set("a", 1)
        seen.append((session.info().expires or 0.0) - time.time())
        return {"reply": "?"}

    with ScriptedLM(looks) as lm:
        session.chat("?", lm=lm, timeout=1000)
    assert seen[0] > 900
