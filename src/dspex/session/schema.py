"""The tables of a database: made where there are none, and refused where they are of another version."""

from __future__ import annotations

from sqlalchemy import Connection, Engine

from dspex.session.tables import metadata


def prepare(engine: Engine) -> None:
    """See to it that the tables are those of this version; an empty database gets them.

    Raises:
        StoreError: They are of another version.
    """
    with engine.execution_options(dspex_begin="IMMEDIATE").begin() as connection:
        create(connection)


def create(connection: Connection) -> None:
    """Make the tables in an empty database."""
    metadata.create_all(connection)
