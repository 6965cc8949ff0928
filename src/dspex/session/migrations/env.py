"""What Alembic runs: the migrations, on the connection that it was given."""

from __future__ import annotations

from alembic import context

from dspex.session.schema import VERSION_TABLE
from dspex.session.tables import metadata

_given = context.config.attributes
context.configure(
    connection=_given["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,  # SQLite changes a table by making it anew
    on_version_apply=_given.get("told"),
)
# The transaction is that of whoever gave the connection: all of an upgrade is done, or none of it.
context.run_migrations()
