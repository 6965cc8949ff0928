"""The store: statements in transactions, the same on every database."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, select

from dspex.session.store import Store, insert
from dspex.session.tables import owners

pytestmark = pytest.mark.anyio


def _added(connection: Connection, name: str) -> None:
    connection.execute(insert(connection, owners).values(id=name, host="here", pid=1, born="1", seen=1.0))


def _names(connection: Connection) -> list[str]:
    return list(connection.scalars(select(owners.c.id).order_by(owners.c.id)))


async def test_what_was_written_is_read(store: Store) -> None:
    """If this failed, a write that has returned could be missing for whoever reads next."""
    await store.write(lambda connection: _added(connection, "a"))
    assert await store.read(_names) == ["a"]
