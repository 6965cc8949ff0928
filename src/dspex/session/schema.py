"""The tables of a database: made where there are none, and refused where they are of another version."""

from __future__ import annotations

from typing import Literal, NamedTuple

from sqlalchemy import Column, Connection, MetaData, String, Table, delete, insert, inspect, select, text

from dspex.errors import StoreError
from dspex.session.tables import metadata

#: The versions of the tables, oldest first; the last one is this dspex's. Alembic's revisions are named so.
REVISIONS: tuple[str, ...] = ("0001",)
#: The table in which Alembic notes the version.
VERSION_TABLE = "dspex_version"

# Its shape is Alembic's.
_version = Table(VERSION_TABLE, MetaData(), Column("version_num", String(32), primary_key=True))
# "dspex" in hexadecimal: whoever makes or changes the tables holds this lock of PostgreSQL.
_LOCK = 0x6473706578


class Standing(NamedTuple):
    """How the tables stand.

    Attributes:
        state: ``current``, ``empty`` (there are none), ``older``, ``newer`` or ``foreign`` (tables of these
            names that dspex has not made).
        version: Their version, if they have one.
    """

    state: Literal["current", "empty", "older", "newer", "foreign"]
    version: str | None


def standing(connection: Connection) -> Standing:
    """How the tables stand; nothing is changed."""
    there = set(inspect(connection).get_table_names())
    versions = list(connection.scalars(select(_version.c.version_num))) if VERSION_TABLE in there else []
    if not versions:
        return Standing("foreign" if there & set(metadata.tables) else "empty", None)
    version = versions[0]
    if version not in REVISIONS:
        return Standing("newer", version)
    return Standing("current" if version == REVISIONS[-1] else "older", version)


def prepare(connection: Connection, shown: str) -> None:
    """See to it that the tables are those of this version; an empty database gets them.

    Args:
        connection: In a transaction.
        shown: The store, as it may be shown.

    Raises:
        StoreError: They are of another version.
    """
    found = standing(connection)
    if found.state == "empty":
        # Of two processes that start together one makes them, and the other finds them.
        hold(connection)
        found = standing(connection)
    if found.state == "empty":
        create(connection)
    elif found.state != "current":
        raise refused(found, shown)


def hold(connection: Connection) -> None:
    """Until this transaction ends, be the only one to make or change tables."""
    if connection.dialect.name == "postgresql":  # SQLite has one writer in any case
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def create(connection: Connection) -> None:
    """Make the tables in an empty database, without Alembic, whose import takes time."""
    metadata.create_all(connection)
    _version.create(connection, checkfirst=True)
    connection.execute(delete(_version))
    connection.execute(insert(_version).values(version_num=REVISIONS[-1]))


def refused(found: Standing, shown: str) -> StoreError:
    """The error for tables of another version."""
    needed = REVISIONS[-1]
    what = {
        "older": f"has tables of version {found.version}, and this dspex needs {needed}. Make a backup, stop "
        "what uses the store, and run `dspex store upgrade` (--store names another than the settings do)",
        "newer": f"has tables of version {found.version}, which a newer dspex has made; this one knows "
        f"{needed} and older. Run the newer dspex",
        "foreign": "has tables with dspex's names that dspex has not made; use another database",
        "empty": "has no tables yet; they are made when a runtime opens it",
    }
    return StoreError(
        f"the store ({shown}) {what[found.state]}",
        details={"store": shown, "cause": found.state, "version": found.version, "needed": needed},
        retryable=False,
    )
