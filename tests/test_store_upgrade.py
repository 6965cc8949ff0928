"""Tables of another version: refused at start, and upgraded with their rows."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from typer.testing import CliRunner, Result

import dspex
from dspex.cli.app import app
from dspex.session import schema, upgrade
from dspex.session.place import place_of
from dspex.session.store import Store
from dspex.session.tables import metadata

pytestmark = pytest.mark.anyio
_NEXT = '''
"""The owners have a colour."""
import sqlalchemy as sa
from alembic import op
revision = "0002"
down_revision = "0001"

def upgrade():
    with op.batch_alter_table("dspex_sessions", recreate="auto") as table:
        table.add_column(sa.Column("colour", sa.Text(), nullable=False, server_default="red"))
        table.alter_column("record", new_column_name="recording")
'''
_SESSION = text(
    "INSERT INTO dspex_sessions (tenant, id, anonymous, ended, created, used, record, metadata) "
    "VALUES ('', 'a', false, false, 1.0, 1.0, 'all', :nothing) RETURNING key"
)
_VARIABLE = text("INSERT INTO dspex_variables VALUES (:session, 'name', :value, 1, 1.0)")


@pytest.fixture(params=["file", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """What outlives its runtime."""
    if request.param == "file":
        yield str(tmp_path / "a.db")
    else:
        yield request.getfixturevalue("database")


def _dspex(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def _do(statement: str, connection: Connection) -> None:
    connection.execute(text(statement))


async def test_the_migrations_make_the_tables(where: str) -> None:
    """If this failed, an upgraded store would lack what a new one has."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def compared(connection: Connection) -> list[object]:
        upgrade._migrate(connection, lambda *_: None, upgrade.MIGRATIONS)
        options = {
            "version_table": schema.VERSION_TABLE,
            "compare_type": True,
            "compare_server_default": True,
        }
        context = MigrationContext.configure(connection, opts=options)
        return [*compare_metadata(context, metadata), schema.standing(connection).state]

    store = Store(place_of(where), migrating=True)
    await store.open()
    assert await store.write(compared) == ["current"]
    await store.aclose()


def test_the_versions_are_those_of_the_migrations() -> None:
    """If this failed, a store with the newest tables would be refused."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(upgrade.MIGRATIONS))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    assert tuple(script.revision for script in scripts.walk_revisions())[::-1] == schema.REVISIONS


async def test_an_older_store_is_refused_and_upgraded(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, an upgrade of dspex would lose sessions, or run on tables that it does not know."""
    place = place_of(where)
    store = Store(place)
    await store.open()

    def filled(connection: Connection) -> None:
        key = connection.scalars(_SESSION, {"nothing": b""}).one()
        connection.execute(_VARIABLE, {"session": key, "value": b"kept"})

    await store.write(filled)
    await store.aclose()
    scripts = tmp_path / "migrations 100%"
    shutil.copytree(upgrade.MIGRATIONS, scripts)
    (scripts / "versions" / "0002_colour.py").write_text(_NEXT)
    monkeypatch.setattr(schema, "REVISIONS", ("0001", "0002"))
    with pytest.raises(dspex.StoreError, match="dspex store upgrade") as refused:
        await Store(place).open()
    assert refused.value.details["cause"] == "older"
    assert not refused.value.retryable
    steps: list[tuple[str | None, str, str]] = []
    before, after = await upgrade.upgrade(place, lambda *step: steps.append(step), scripts)
    assert (before, after) == (("older", "0001"), ("current", "0002"))
    assert steps == [("0001", "0002", "The owners have a colour.")]
    again = Store(place)
    await again.open()
    query = text("SELECT colour, recording, value FROM dspex_sessions JOIN dspex_variables ON session = key")
    rows = await again.read(lambda connection: [tuple(row) for row in connection.execute(query)])
    assert rows == [("red", "all", b"kept")]
    await again.aclose()


async def test_an_upgrade_that_fails_changes_nothing(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, a store could be left between two versions, for none of them to open."""
    place = place_of(where)
    store = Store(place)
    await store.open()
    await store.aclose()
    scripts = tmp_path / "migrations"
    shutil.copytree(upgrade.MIGRATIONS, scripts)
    (scripts / "versions" / "0002_colour.py").write_text(_NEXT + "    raise RuntimeError('half way')\n")
    with monkeypatch.context() as patched:
        patched.setattr(schema, "REVISIONS", ("0001", "0002"))
        with pytest.raises(RuntimeError, match="half way"):
            await upgrade.upgrade(place, lambda *_: None, scripts)
    assert await upgrade.look(place) == ("current", "0001")


async def test_newer_and_foreign_tables_are_refused(where: str) -> None:
    """If this failed, an older dspex would write into tables whose meaning it does not know."""
    place = place_of(where)
    store = Store(place)
    await store.open()
    await store.write(
        lambda connection: connection.execute(text("UPDATE dspex_version SET version_num = '9'")) and None
    )
    await store.aclose()
    for do in (Store(place).open, lambda: upgrade.upgrade(place, lambda *_: None)):
        with pytest.raises(dspex.StoreError, match="newer dspex"):
            await do()
    bare = Store(place, migrating=True)
    await bare.open()
    await bare.write(lambda connection: connection.execute(text("DROP TABLE dspex_version")) and None)
    await bare.aclose()
    with pytest.raises(dspex.StoreError, match="has not made"):
        await Store(place).open()


async def test_tables_of_an_application_are_left_alone(where: str) -> None:
    """If this failed, dspex could not be in the database of the application that uses it."""
    place = place_of(where)
    bare = Store(place, migrating=True)
    await bare.open()
    for name in ("sessions", "alembic_version"):
        await bare.write(functools.partial(_do, f"CREATE TABLE {name} (version_num TEXT)"))
    await bare.aclose()
    store = Store(place)
    await store.open()
    await store.aclose()
    assert await upgrade.look(place) == ("current", schema.REVISIONS[-1])


def test_alembic_is_not_imported_when_all_is_well(tmp_path: Path) -> None:
    """If this failed, each start would take the time of its import."""
    script = (
        "import asyncio, sys\n"
        "from dspex.session.place import place_of\n"
        "from dspex.session.store import Store\n"
        "async def main():\n"
        "    for _ in range(2):\n"
        "        store = Store(place_of(sys.argv[1])); await store.open(); await store.aclose()\n"
        "asyncio.run(main()); assert 'alembic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.db")], check=True, timeout=60)


def test_the_command(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, whoever is told to run `dspex store upgrade` would be left alone with it."""
    monkeypatch.setenv("DATABASE_URL", where)
    store = ("--store", "env:DATABASE_URL")
    told = _dspex("store", "status", *store)
    assert (told.exit_code, told.stderr) == (0, "")
    assert "no tables yet" in told.stdout
    told = _dspex("store", "upgrade", *store)
    assert told.exit_code == 0
    assert told.stderr.startswith("none -> 0001")
    told = _dspex("store", "upgrade", "--json", *store)
    assert (told.exit_code, told.stderr) == (0, "")
    assert json.loads(told.stdout)["steps"] == []
    told = _dspex("store", "status", "--json", *store)
    assert json.loads(told.stdout)["state"] == "current"


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        ("memory", 2, "memory"),
        ("mysql://me:canary@host/name", 2, "a URL of mysql"),
        ("env:NOT_SET", 2, "NOT_SET"),
        ("/proc/none/a.db", 1, "cannot be opened"),
    ],
)
def test_the_command_s_errors(given: str, code: int, said: str) -> None:
    """If this failed, a script could not tell a slip from a database that is gone."""
    told = _dspex("store", "upgrade", "--store", given)
    assert (told.exit_code, told.stdout) == (code, "")
    assert said in told.stderr
    assert "canary" not in told.stderr
