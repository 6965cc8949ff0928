"""The tables of the store.

Values are bytes as they travel (``dspex.wire.values``), times seconds since 1970. The names have a prefix,
because the database may be that of an application with sessions of its own.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = MetaData(naming_convention=_NAMES)
_KEY = BigInteger().with_variant(Integer, "sqlite")

#: Runtimes that have the store open: who holds a lease or runs a turn is one of them.
owners = Table(
    "dspex_owners",
    metadata,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),  # of a process on the same host it can be told whether it lives
    Column("pid", Integer, nullable=False),
    Column("born", Text, nullable=False),  # tells this process from a later one with its pid
    Column("seen", Double, nullable=False),
)

#: How many sessions there are: of each tenant (``kind`` is ``tenant``), and of all (``all``).
counts = Table(
    "dspex_counts",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("sessions", Integer, nullable=False, server_default="0"),
)

sessions = Table(
    "dspex_sessions",
    metadata,
    Column("key", _KEY, primary_key=True),
    Column("tenant", Text, nullable=False),  # empty for none
    Column("id", Text, nullable=False),
    Column("anonymous", Boolean, nullable=False),  # made for a program that was given no session
    Column("ended", Boolean, nullable=False),  # expired and swept: only this row is left, to tell of it
    Column("ttl", Double),  # seconds; null never expires
    Column("created", Double, nullable=False),
    Column("used", Double, nullable=False),
    Column("expires", Double),
    Column("record", Text, nullable=False),
    Column("metadata", LargeBinary, nullable=False),
    Column("lm", LargeBinary),
    Column("budget", LargeBinary),  # MessagePack of dspex.types.Budget
    Column("spent_tokens", BigInteger, nullable=False, server_default="0"),  # of its budget
    Column("spent_cost", Double, nullable=False, server_default="0"),
    Column("turns", Integer, nullable=False, server_default="0"),  # the number of the last one
    Column("answered", Integer, nullable=False, server_default="0"),
    Column("failed", Integer, nullable=False, server_default="0"),
    Column("prompt_tokens", BigInteger, nullable=False, server_default="0"),
    Column("completion_tokens", BigInteger, nullable=False, server_default="0"),
    Column("cost", Double, nullable=False, server_default="0"),  # US dollars, of turns with a price
    Column("unpriced", Integer, nullable=False, server_default="0"),
    Column("seconds", Double, nullable=False, server_default="0"),
    Column("lease_owner", Text),
    Column("lease_call", Text),
    Column("lease_until", Double),
    UniqueConstraint("tenant", "id"),
    Index(None, "expires"),
)

#: What was spent of the budgets of tenants (``scope`` is ``tenant``) and of all (``day``), each UTC day.
spent = Table(
    "dspex_spent",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("day", Text, primary_key=True),
    Column("tokens", BigInteger, nullable=False),
    Column("cost", Double, nullable=False),
)

programs = Table(
    "dspex_programs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("session", _KEY, ForeignKey("dspex_sessions.key", ondelete="CASCADE"), nullable=False),
    Column("name", Text),
    Column("created", Double, nullable=False),
    Column("version", Integer, nullable=False),  # the one that calls run
    Column("latest", Integer, nullable=False),
    UniqueConstraint("session", "name"),
)

versions = Table(
    "dspex_versions",
    metadata,
    Column("program", Text, ForeignKey("dspex_programs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("created", Double, nullable=False),
    Column("document", LargeBinary, nullable=False),  # MessagePack of dspex.program.document.Document
)

turns = Table(
    "dspex_turns",
    metadata,
    Column("session", _KEY, ForeignKey("dspex_sessions.key", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("status", Text, nullable=False),  # started, ok, failed, cancelled, interrupted
    Column("request_id", Text, nullable=False),
    Column("program", Text),
    Column("version", Integer),
    Column("module", Text, nullable=False),
    Column("recorded", Text, nullable=False),  # all, shape
    Column("inputs", LargeBinary),
    Column("outputs", LargeBinary),
    Column("model", Text),
    Column("prompt_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("cost", Double),
    Column("attempts", Integer),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("started", Double, nullable=False),
    Column("seconds", Double),
    Index(None, "owner", "status"),
)

variables = Table(
    "dspex_variables",
    metadata,
    Column("session", _KEY, ForeignKey("dspex_sessions.key", ondelete="CASCADE"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
    Column("version", Integer, nullable=False),
    Column("changed", Double, nullable=False),
)
