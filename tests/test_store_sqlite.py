"""A store in a file, and what can happen to a file."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

import dspex
from dspex.session.place import place_of
from dspex.session.store import Store

pytestmark = pytest.mark.anyio
_COUNT = """
import asyncio, sys
from sqlalchemy import text
from dspex.session.place import place_of
from dspex.session.store import Store

async def main():
    store = Store(place_of(sys.argv[1]))
    await store.open()
    raised = text("INSERT INTO dspex_counts VALUES ('all', '', 1) "
                  "ON CONFLICT (kind, name) DO UPDATE SET sessions = dspex_counts.sessions + 1")
    for _ in range(10):
        await asyncio.gather(*(store.write(lambda c: c.execute(raised) and None) for _ in range(20)))
    await store.aclose()

asyncio.run(main())
"""


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[Store]:
    """A store in a file that is open."""
    opened = Store(place_of(tmp_path / "new" / "a.db"))
    await opened.open()
    yield opened
    await opened.aclose()


def _path(store: Store) -> Path:
    assert store.place.path is not None
    return store.place.path


def _put(name: str, size: int = 1) -> Callable[[Connection], None]:
    def put(connection: Connection) -> None:
        connection.execute(
            text("INSERT INTO dspex_owners VALUES (:id, :host, 1, '1', 1.0)"),
            {"id": name, "host": "x" * size},
        )

    return put


def _names(connection: Connection) -> list[str]:
    return list(connection.scalars(text("SELECT id FROM dspex_owners ORDER BY id")))


async def test_only_its_user_may_read_it(file: Store) -> None:
    """If this failed, customers' prompts could be read by every user of the machine."""
    await file.write(_put("a"))
    there = sorted(_path(file).parent.iterdir())
    assert [path.suffix for path in there] == [".db", ".db-shm", ".db-wal"]
    assert {path.stat().st_mode & 0o777 for path in there} == {0o600}
    assert _path(file).parent.stat().st_mode & 0o777 == 0o700


async def test_a_file_that_is_locked_costs_a_call_and_no_more(
    file: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, a backup that takes long would poison the runtime, or hold each call in turn."""
    await file.write(_put("a"))
    await file.write(lambda connection: connection.execute(text("PRAGMA busy_timeout = 50")) and None)
    other = sqlite3.connect(_path(file))
    other.execute("BEGIN IMMEDIATE")
    failed = await asyncio.gather(*(file.write(_put(f"b{n}")) for n in range(50)), return_exceptions=True)
    assert {getattr(error, "code", error) for error in failed} == {"store_error"}
    assert {error.details["cause"] for error in failed if isinstance(error, dspex.StoreError)} == {"locked"}
    assert await file.read(_names) == ["a"], "reading goes on"
    other.rollback()
    other.close()
    await file.write(_put("c"))
    assert await file.read(_names) == ["a", "c"]


async def test_a_full_disk_costs_what_does_not_fit(file: Store) -> None:
    """If this failed, one large turn would take small ones along, or the runtime stay broken afterwards."""
    await file.write(_put("a"))
    await file.write(lambda connection: connection.execute(text("PRAGMA max_page_count = 60")) and None)
    works = [_put("b"), _put("large", 1_000_000), _put("c")]
    results = await asyncio.gather(*(file.write(work) for work in works), return_exceptions=True)
    assert [isinstance(result, BaseException) for result in results] == [False, True, False]
    assert isinstance(results[1], dspex.StoreError)
    assert (results[1].details["cause"], results[1].retryable) == ("full", True)
    await file.write(lambda connection: connection.execute(text("PRAGMA max_page_count = 100000")) and None)
    await file.write(_put("large", 1_000_000))
    assert await file.read(_names) == ["a", "b", "c", "large"]


async def test_a_file_that_was_replaced_is_not_written(file: Store) -> None:
    """If this failed, sessions would be written into a file that nobody sees any more."""
    await file.write(_put("a"))
    aside = _path(file).with_name("aside.db")
    _path(file).rename(aside)
    for do in (lambda: file.write(_put("b")), lambda: file.read(_names)):
        with pytest.raises(dspex.StoreError, match="deleted or replaced"):
            await do()
    assert not _path(file).exists(), "another file would hide that one is missing"
    aside.rename(_path(file))
    await file.write(_put("c"))
    assert await file.read(_names) == ["a", "c"]


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda path: path.write_text("no database " * 100), "not_a_database"),
        (lambda path: path.mkdir(), "missing"),
        (lambda path: path.parent.rmdir() or path.parent.write_text(""), "missing"),
        (lambda path: path.parent.rmdir() or path.parent.symlink_to("/proc/nowhere"), "missing"),
    ],
    ids=["no database", "a directory", "a file for a directory", "nowhere"],
)
async def test_what_cannot_be_a_store(tmp_path: Path, make: object, cause: str) -> None:
    """If this failed, a wrong path would be a traceback of a driver."""
    path = tmp_path / "dir" / "a.db"
    path.parent.mkdir()
    assert callable(make)
    make(path)
    with pytest.raises(dspex.StoreError) as refused:
        await Store(place_of(path)).open()
    assert (refused.value.details["cause"], refused.value.retryable) == (cause, False)


async def test_a_file_that_may_not_be_written(tmp_path: Path) -> None:
    """If this failed, nobody would be told which user has to be let in."""
    path = tmp_path / "a.db"
    path.touch()
    path.chmod(0o444)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o555)
    if os.geteuid() == 0:  # whom no mode keeps out
        os.seteuid(65534)
    try:
        with pytest.raises(dspex.StoreError) as refused:
            await Store(place_of(path)).open()
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
    assert refused.value.details["cause"] in {"read_only", "missing"}
    assert "written" in refused.value.message


async def test_processes_share_a_file(file: Store) -> None:
    """If this failed, two services on one file would lose what the other counts."""
    counts = [sys.executable, "-c", _COUNT, str(_path(file))]
    ran = await asyncio.gather(*(asyncio.to_thread(subprocess.run, counts, timeout=100) for _ in range(2)))
    assert [process.returncode for process in ran] == [0, 0]
    counted = await file.read(lambda connection: connection.scalar(text("SELECT sessions FROM dspex_counts")))
    assert counted == 400


async def test_what_is_deleted_is_gone_from_the_file(tmp_path: Path) -> None:
    """If this failed, a deleted session could be read from the file's free pages."""
    store = Store(place_of(tmp_path / "a.db"))
    await store.open()
    await store.write(_put("canary-in-the-file", 10_000))
    await store.write(lambda connection: connection.execute(text("DELETE FROM dspex_owners")) and None)
    await store.aclose()
    assert not (tmp_path / "a.db-wal").exists()
    assert b"canary" not in (tmp_path / "a.db").read_bytes()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_a_fork_leaves_the_store_alone(file: Store) -> None:
    """If this failed, a child that ends could close the parent's database, or wait forever."""
    await file.write(_put("a"))
    child = os.fork()
    if child == 0:
        try:
            asyncio._set_running_loop(None)
            asyncio.run(file.write(_put("b")))
        except dspex.StoreError as error:
            os._exit(7 if error.details["cause"] == "closed" else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, child, 0))[1]) == 7
    await file.write(_put("c"))
    assert await file.read(_names) == ["a", "c"]


async def test_an_old_sqlite_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a Python with an old SQLite would fail with a syntax error in the first turn."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(dspex.StoreError, match="too old"):
        await Store(place_of(tmp_path / "a.db")).open()


def test_a_program_that_just_ends_leaves_a_whole_file(tmp_path: Path) -> None:
    """If this failed, a script that closes nothing would leave what it wrote in files beside the store."""
    script = (
        "import sys; from dspex.testing import InProcessRuntime\n"
        "runtime = InProcessRuntime(store=sys.argv[1]).open()\n"
        "runtime.adapter().session('s').set('a', 1)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "x.db")], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["x.db"]
