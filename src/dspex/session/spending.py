"""What was spent of the budgets of sessions, tenants and days."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, delete, select, update

from dspex.session.store import insert
from dspex.session.tables import sessions, spent


class Owed(NamedTuple):
    """What has to be written of one budget.

    Attributes:
        scope: ``session``, ``tenant`` or ``day``.
        name: The tenant; empty for none, and of a session.
        day: The UTC day; empty of a session.
        session: The session's key; 0 of others.
        tokens: Tokens that were spent since it was last written.
        cost: US dollars that were.
    """

    scope: str
    name: str
    day: str
    session: int
    tokens: int
    cost: float


def add(connection: Connection, owed: Sequence[Owed], before: str | None) -> list[tuple[int, float] | None]:
    """Add what was spent.

    Args:
        connection: The store's.
        owed: What was.
        before: The first day that is still of interest; those before it are forgotten. None forgets none.

    Returns:
        What was spent of each in all, by every process; None of a session that is no more.
    """
    sums = [_add_to_session(connection, one) if one.session else _add(connection, one) for one in owed]
    if before is not None:
        connection.execute(delete(spent).where(spent.c.day < before))
    return sums


def _add(connection: Connection, owed: Owed) -> tuple[int, float]:
    made = insert(connection, spent).values(
        scope=owed.scope, name=owed.name, day=owed.day, tokens=owed.tokens, cost=owed.cost
    )
    row = connection.execute(
        made.on_conflict_do_update(
            index_elements=[spent.c.scope, spent.c.name, spent.c.day],
            set_={"tokens": spent.c.tokens + owed.tokens, "cost": spent.c.cost + owed.cost},
        ).returning(spent.c.tokens, spent.c.cost)
    ).one()
    return row.tokens, row.cost


def _add_to_session(connection: Connection, owed: Owed) -> tuple[int, float] | None:
    row = connection.execute(
        update(sessions)
        .where(sessions.c.key == owed.session)
        .values(
            spent_tokens=sessions.c.spent_tokens + owed.tokens, spent_cost=sessions.c.spent_cost + owed.cost
        )
        .returning(sessions.c.spent_tokens, sessions.c.spent_cost)
    ).one_or_none()
    return None if row is None else (row.spent_tokens, row.spent_cost)


def read(connection: Connection, scope: str, name: str, day: str) -> tuple[int, float]:
    """What was spent of the budget of a tenant or of a day."""
    row = connection.execute(
        select(spent.c.tokens, spent.c.cost).where(
            spent.c.scope == scope, spent.c.name == name, spent.c.day == day
        )
    ).one_or_none()
    return (0, 0.0) if row is None else (row.tokens, row.cost)
