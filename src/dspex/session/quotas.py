"""How many sessions there may be, counted in the database so that it is exact across processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, update

from dspex.errors import SessionQuota
from dspex.session.store import insert
from dspex.session.tables import counts

# The part of a quota from which on it is told to be near.
_NEAR = 0.8


class Quotas(NamedTuple):
    """The most sessions that there may be.

    Attributes:
        all: Of all tenants.
        tenant: Of each tenant.
    """

    all: int
    tenant: int


class Near(NamedTuple):
    """A quota that is nearly used up.

    Attributes:
        kind: ``all`` or ``tenant``.
        sessions: How many there are.
        limit: How many there may be.
    """

    kind: str
    sessions: int
    limit: int


def take(connection: Connection, tenant: str, quotas: Quotas) -> list[Near]:
    """Count one more session.

    Returns:
        The quotas that have just come near their end.

    Raises:
        SessionQuota: There are as many as there may be.
    """
    near = []
    # Always in this order, so that two processes never wait for each other.
    for kind, name, limit in (("all", "", quotas.all), ("tenant", tenant, quotas.tenant)):
        taken = _count(connection, kind, name, limit)
        if taken is None:
            connection.execute(
                insert(connection, counts).values(kind=kind, name=name, sessions=0).on_conflict_do_nothing()
            )
            taken = _count(connection, kind, name, limit)
        if taken is None:
            raise _full(kind, limit)
        if taken >= limit * _NEAR and taken - 1 < limit * _NEAR:
            near.append(Near(kind, taken, limit))
    return near


def _count(connection: Connection, kind: str, name: str, limit: int) -> int | None:
    return connection.execute(
        update(counts)
        .where(counts.c.kind == kind, counts.c.name == name, counts.c.sessions < limit)
        .values(sessions=counts.c.sessions + 1)
        .returning(counts.c.sessions)
    ).scalar_one_or_none()


def give_back(connection: Connection, tenants: Sequence[str]) -> None:
    """Count sessions out that have ended, each by its tenant."""
    if not tenants:
        return
    connection.execute(
        update(counts).where(counts.c.kind == "all").values(sessions=counts.c.sessions - len(tenants))
    )
    for tenant in sorted(set(tenants)):
        connection.execute(
            update(counts)
            .where(counts.c.kind == "tenant", counts.c.name == tenant)
            .values(sessions=counts.c.sessions - tenants.count(tenant))
        )


def _full(kind: str, limit: int) -> SessionQuota:
    whose, option = (
        ("the tenant has", "max_sessions_per_tenant") if kind == "tenant" else ("there are", "max_sessions")
    )
    return SessionQuota(
        f"{whose} {limit:,} sessions already, which is the most; delete some, let them expire, or raise "
        f"Settings({option}=...)",
        details={"limit": limit, "quota": kind},
    )
