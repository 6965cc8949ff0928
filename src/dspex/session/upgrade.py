"""Older tables become those of this version, by Alembic's migrations; ``dspex store upgrade`` asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from dspex.session.place import Place
from dspex.session.schema import REVISIONS, Standing, create, hold, refused, standing
from dspex.session.store import Store

#: Where the migrations are.
MIGRATIONS = Path(__file__).with_name("migrations")

#: Is told of each step: the version before it (None for none), the one after it, and what it does.
Told = Callable[[str | None, str, str], None]


async def look(place: Place) -> Standing:
    """How the tables of a store stand; nothing is made or changed.

    Raises:
        InvalidOption: The URL has an option that there is not.
        StoreError: The store cannot be used.
    """
    if place.path is not None and not await asyncio.to_thread(place.path.exists):
        return Standing("empty", None)
    store = Store(place, migrating=True)
    await store.open()
    try:
        return await store.read(standing)
    finally:
        await store.aclose()


async def upgrade(place: Place, told: Told, migrations: Path = MIGRATIONS) -> tuple[Standing, Standing]:
    """Have the tables of a store become those of this version, all in one transaction.

    Args:
        place: The store.
        told: Is told of each step that was done; not on the thread of the caller.
        migrations: Where Alembic's scripts are.

    Returns:
        How the tables stood, and how they stand now.

    Raises:
        InvalidOption: The URL has an option that there is not.
        StoreError: The store cannot be used, or its tables are not those of an older version.
    """
    store = Store(place, migrating=True)
    await store.open()
    try:
        return await store.write(lambda connection: _upgraded(connection, place.shown, told, migrations))
    finally:
        await store.aclose()


def _upgraded(connection: Connection, shown: str, told: Told, migrations: Path) -> tuple[Standing, Standing]:
    hold(connection)
    before = standing(connection)
    if before.state == "empty":
        create(connection)
        told(None, REVISIONS[-1], "the tables are made")
    elif before.state == "older":
        _migrate(connection, told, migrations)
    elif before.state != "current":
        raise refused(before, shown)
    return before, standing(connection)


def _migrate(connection: Connection, told: Told, migrations: Path) -> None:
    from alembic import command
    from alembic.config import Config

    def applied(step: Any, **_: Any) -> None:
        before = step.down_revision_ids
        told(before[0] if before else None, step.up_revision_id, step.up_revision.doc)

    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(connection=connection, told=applied)
    command.upgrade(config, "head")
