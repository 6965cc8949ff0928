"""A store in PostgreSQL, and what can happen to a server."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from sqlalchemy import Connection, text

import dspex
from dspex.session import postgresql as backend
from dspex.session.place import place_of
from dspex.session.store import Store
from tests.stores import Server, programs

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def own(postgresql: Server) -> Iterator[Server]:
    """A server that may be ended and stopped: nobody else uses it."""
    found = programs()
    assert found is not None, postgresql
    server = Server(found)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
async def fragile(own: Server, anyio_backend: str) -> AsyncIterator[Store]:
    """An open store on that server."""
    own.sql("CREATE DATABASE fragile")
    opened = Store(place_of(own.url("fragile")))
    await opened.open()
    yield opened
    await opened.aclose()
    own.sql("DROP DATABASE fragile WITH (FORCE)")


def _put(name: str) -> Callable[[Connection], None]:
    def put(connection: Connection) -> None:
        connection.execute(text("INSERT INTO dspex_owners VALUES (:id, 'here', 1, '1', 1.0)"), {"id": name})

    return put


def _names(connection: Connection) -> list[str]:
    return list(connection.scalars(text("SELECT id FROM dspex_owners ORDER BY id")))


@pytest.mark.chaos
async def test_a_server_that_was_started_again(own: Server, fragile: Store) -> None:
    """If this failed, a restart of the server would cost a call for each connection, or all of them."""
    await asyncio.gather(*(fragile.write(_put(f"a{number:02}")) for number in range(20)))
    own.stop()
    for do in (lambda: fragile.write(_put("b")), lambda: fragile.read(_names)):
        with pytest.raises(dspex.StoreError) as gone:
            await do()
        assert (gone.value.details["cause"], gone.value.retryable) == ("unreachable", True)
    own.start()
    await asyncio.gather(*(fragile.write(_put(f"c{number:02}")) for number in range(20)))
    own.stop()
    own.start()
    names = await asyncio.gather(*(fragile.read(_names) for _ in range(20)))
    assert {len(found) for found in names} == {40}, "connections of before are not a caller's affair"


@pytest.mark.chaos
async def test_a_server_that_stands_still(own: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a machine that is lost to the network would hold calls for as long as TCP does."""
    monkeypatch.setattr(backend, "_WORK", 1.0)
    monkeypatch.setattr(backend, "_CONNECT", 1.0)
    own.sql("CREATE DATABASE still")
    store = Store(place_of(own.url("still")))
    await store.open()
    await store.write(_put("a"))
    own.freeze()
    try:
        async with asyncio.timeout(60):
            tried = [*(store.write(_put(f"b{n}")) for n in range(12)), store.read(_names)]
            failed = await asyncio.gather(*tried, return_exceptions=True)
        assert {getattr(error, "code", error) for error in failed} == {"store_error"}
        with pytest.raises(dspex.StoreError):
            await Store(place_of(own.url("still"))).open()
    finally:
        own.thaw()
    await store.write(_put("c"))
    assert {"a", "c"} <= set(await store.read(_names))
    await store.aclose()


async def test_what_the_server_took_back_is_run_again(database: str) -> None:
    """If this failed, two turns that lock two rows in another order would cost one of them."""
    store = Store(place_of(database))
    await store.open()
    for name in ("a", "b"):
        await store.write(_put(name))
    first = {"a": asyncio.Event(), "b": asyncio.Event()}
    runs = {"a": 0, "b": 0}
    raised = text("UPDATE dspex_owners SET pid = pid + 1 WHERE id = :id")

    def crossed(own: str, other: str) -> Callable[[Connection], None]:
        def work(connection: Connection) -> None:
            from sqlalchemy.util import await_only

            runs[own] += 1
            connection.execute(raised, {"id": own})
            first[own].set()
            await_only(first[other].wait())
            connection.execute(raised, {"id": other})

        return work

    await asyncio.gather(store.write(crossed("a", "b")), store.write(crossed("b", "a")))
    assert sorted(runs.values()) == [1, 2]
    pids = await store.read(lambda connection: list(connection.scalars(text("SELECT pid FROM dspex_owners"))))
    assert pids == [3, 3]
    await store.aclose()


async def test_reading_sees_one_state(database: str) -> None:
    """If this failed, an export could have a turn twice or not at all."""
    store = Store(place_of(database))
    await store.open()
    await store.write(_put("a"))
    reading, written = asyncio.Event(), asyncio.Event()

    def twice(connection: Connection) -> tuple[list[str], list[str]]:
        from sqlalchemy.util import await_only

        before = _names(connection)
        reading.set()
        await_only(written.wait())
        return before, _names(connection)

    both = asyncio.create_task(store.read(twice))
    await reading.wait()
    await store.write(_put("b"))
    written.set()
    assert await both == (["a"], ["a"])
    with pytest.raises(dspex.StoreError):
        await store.read(_put("c"))
    await store.aclose()


async def test_a_call_that_is_cancelled_writes_nothing(database: str) -> None:
    """If this failed, a cancelled call could block the rows that it had changed."""
    store = Store(place_of(database))
    await store.open()
    begun = asyncio.Event()

    def slow(connection: Connection) -> None:
        _put("a")(connection)
        begun.set()
        connection.execute(text("SELECT pg_sleep(60)"))

    waiting = asyncio.create_task(store.write(slow))
    await begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await store.write(_put("a"))
    assert await store.read(_names) == ["a"]
    await store.aclose()


async def test_what_cannot_be_opened_says_why(postgresql: Server) -> None:
    """If this failed, a wrong name in the URL would be a traceback of a driver, perhaps with the password."""
    base = postgresql.url("postgres").replace("dspex@", "dspex:canary@")
    wrong = {
        base.replace("/postgres", "/nothing"): "missing",
        base.replace("dspex:", "nobody:"): "refused",
        base.replace(f":{postgresql.port}", ":1"): "unreachable",
    }
    for url, cause in wrong.items():
        with pytest.raises(dspex.StoreError) as refused:
            await Store(place_of(url)).open()
        assert refused.value.details["cause"] == cause
        assert "canary" not in repr(refused.value) + str(refused.value.to_wire())
    with pytest.raises(dspex.InvalidOption, match="asyncpg does not have"):
        await Store(place_of(base + "?no_such_option=1")).open()


async def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a missing driver would be an ImportError of a package that nobody asked for."""
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(dspex.InvalidOption, match=r"dspex\[postgresql\]"):
        Store(place_of("postgresql://me@host/name"))
