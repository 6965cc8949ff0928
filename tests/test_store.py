"""The store: statements in transactions, the same on every database."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, select, update

import dspex
from dspex.session.place import place_of
from dspex.session.reference import resolved
from dspex.session.store import Store, insert
from dspex.session.tables import owners

pytestmark = pytest.mark.anyio


def _add(name: str, pid: int = 0) -> Callable[[Connection], None]:
    def added(connection: Connection) -> None:
        connection.execute(
            insert(connection, owners).values(id=name, host="here", pid=pid, born="1", seen=1.0)
        )

    return added


def _names(connection: Connection) -> list[str]:
    return list(connection.scalars(select(owners.c.id).order_by(owners.c.id)))


def _raise_count(connection: Connection) -> int:
    raised = update(owners).where(owners.c.id == "a").values(pid=owners.c.pid + 1).returning(owners.c.pid)
    return int(connection.scalars(raised).one())


async def test_what_was_written_is_read(store: Store) -> None:
    """If this failed, a write that has returned could be missing for whoever reads next."""
    await store.write(_add("a"))
    assert await store.read(_names) == ["a"]


async def test_an_error_in_one_work_costs_only_that_work(store: Store) -> None:
    """If this failed, one caller's unknown session would undo what others wrote at the same moment."""

    def refused(connection: Connection) -> None:
        _add("refused")(connection)
        raise dspex.UnknownSession("none")

    await store.write(_add("kept-twice"))
    works = [_add(f"kept-{number}") if number % 3 else refused for number in range(30)]
    works.append(_add("kept-twice"))
    results = await asyncio.gather(*(store.write(work) for work in works), return_exceptions=True)
    wrong = [index for index, result in enumerate(results) if isinstance(result, BaseException)]
    assert wrong == [*range(0, 30, 3), 30]
    assert {type(results[index]) for index in wrong[:-1]} == {dspex.UnknownSession}
    assert isinstance(results[30], dspex.StoreError)
    assert "kept" not in str(results[30]), "values of callers do not belong in errors"
    assert await store.read(_names) == sorted(
        [f"kept-{number}" for number in range(30) if number % 3] + ["kept-twice"]
    )


async def test_concurrent_increments_are_all_counted(store: Store) -> None:
    """If this failed, two turns of one session could have the same number."""
    await store.write(_add("a"))
    seen = await asyncio.gather(*(store.write(_raise_count) for _ in range(100)))
    assert sorted(seen) == list(range(1, 101))


async def test_whoever_stops_waiting_costs_nobody_anything(store: Store) -> None:
    """If this failed, a cancelled call could hand on a connection in the middle of its work."""
    await store.write(_add("a"))
    waiting = [asyncio.create_task(store.write(_raise_count)) for _ in range(20)]
    await asyncio.sleep(0)
    for task in waiting[::2]:
        task.cancel()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    stayed = [result for result in results if isinstance(result, int)]
    assert len(stayed) >= 10
    last = await store.write(_raise_count)
    assert last > max(stayed)
    assert len(set(stayed)) == len(stayed)


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    """If this failed, a call that comes too late would wait forever."""
    store = Store(place_of(tmp_path / "a.db"))
    await store.open()
    late = asyncio.gather(*(store.write(_add(f"a{number}")) for number in range(5)))
    await asyncio.sleep(0)
    await store.aclose()
    await late
    with pytest.raises(dspex.StoreError, match="closed"):
        await store.write(_add("b"))


async def test_two_that_open_an_empty_database_at_once(where: str) -> None:
    """If this failed, a service whose processes start together would have some that do not."""
    stores = [Store(place_of(where)) for _ in range(4)]
    try:
        await asyncio.gather(*(store.open() for store in stores))
        counted = await stores[0].read(lambda connection: connection.scalar(select(func.count(owners.c.id))))
        assert counted == 0
    finally:
        for store in stores:
            with contextlib.suppress(dspex.StoreError):
                await store.aclose()


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("memory", "memory"),
        ("sqlite://", "memory"),
        ("/data/a.db", "/data/a.db"),
        ("sqlite:////data/a.db", "/data/a.db"),
        ("postgresql://me:canary@host/name?password=canary", "postgresql+asyncpg://me:***@host/name"),
        ("postgres://me@host/name", "postgresql+asyncpg://me@host/name"),
    ],
)
def test_places(given: str, shown: str) -> None:
    """If this failed, a URL as providers hand it out would be refused, or its password shown."""
    place = place_of(given)
    assert place.shown == shown
    assert "canary" not in repr(place)


@pytest.mark.parametrize(
    "given", ["", "mysql://me:canary@host/name", "postgresql://me:x@host:canary/a", "a\0b"]
)
def test_what_is_no_place_is_refused(given: str) -> None:
    """If this failed, a slip in the URL would be found by a driver, and its password told."""
    with pytest.raises(dspex.InvalidOption) as refused:
        place_of(given)
    assert "canary" not in str(refused.value)


def test_an_ssl_mode_is_asyncpg_s() -> None:
    """If this failed, the URLs of most providers of PostgreSQL would end in a TypeError."""
    assert dict(place_of("postgresql://host/name?sslmode=require").url.query) == {"ssl": "require"}


async def test_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a URL with a password could only be given in the open."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:canary@host/name")
    assert await resolved("env:DATABASE_URL") == "postgresql://me:canary@host/name"
    secret = tmp_path / "url"
    secret.write_text("sqlite:///a.db\n")
    assert await resolved(f"file:{secret}") == "sqlite:///a.db"
    assert await resolved("a.db") == "a.db"
    for missing in ("env:NOT_SET", f"file:{tmp_path}/none", "keyring:"):
        with pytest.raises(dspex.InvalidOption) as refused:
            await resolved(missing)
        assert refused.value.details["option"] == "store"
        assert "API key" not in refused.value.message


def test_a_password_is_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If this failed, `dspex doctor` and logs of settings would tell the password of the database."""
    settings = dspex.Settings(store="postgresql://me:can/ary@host/name?password=canary", file=False)
    for shown in (repr(settings), str(settings.sources()), str(settings.to_dict())):
        assert "postgresql://me:***@host/name?***" in shown
        assert "ary" not in shown.replace("library", "").replace("temporary", "")
    file = tmp_path / "dspex.toml"
    file.write_text('store = "postgresql://me:canary@host/name"\n')
    with pytest.raises(dspex.InvalidOption, match="env:DATABASE_URL") as refused:
        dspex.Settings(file=file)
    assert "canary" not in str(refused.value)
    file.write_text('store = "sessions.db"\n')
    assert dspex.Settings(file=file).store == str(tmp_path / "sessions.db")
    file.write_text('store = "env:DATABASE_URL"\n')
    assert dspex.Settings(file=file).store == "env:DATABASE_URL"
