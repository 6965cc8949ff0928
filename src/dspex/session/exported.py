"""A session with all that it has, read at one moment."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, select

from dspex.session import past, sessions
from dspex.session.find import find
from dspex.session.records import SessionInfo, Turn
from dspex.session.tables import programs, variables, versions


class Exported(NamedTuple):
    """What a session has.

    Attributes:
        info: What is known of it.
        variables: Encoded values by name.
        programs: Each with its versions, as documents.
        turns: The turns in order.
    """

    info: SessionInfo
    variables: dict[str, bytes]
    programs: list[dict[str, Any]]
    turns: list[Turn]


def everything(connection: Connection, tenant: str, session_id: str, now: float) -> Exported:
    """All that a session has; it does not count as a use.

    Raises:
        UnknownSession: There is none.
        SessionExpired: There was one.
    """
    key = find(connection, tenant, session_id, now).key
    values = connection.execute(
        select(variables.c.name, variables.c.value)
        .where(variables.c.session == key)
        .order_by(variables.c.name)
    )
    return Exported(
        sessions.info(connection, tenant, session_id, now),
        {row.name: row.value for row in values},
        _programs(connection, key),
        past.listed(connection, tenant, session_id, now, None, None),
    )


def _programs(connection: Connection, key: int) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    rows = connection.execute(
        select(programs).where(programs.c.session == key).order_by(programs.c.created, programs.c.id)
    )
    for row in rows:
        found[row.id] = {
            "id": row.id,
            "name": row.name,
            "created": row.created,
            "version": row.version,
            "versions": [],
        }
    stored = connection.execute(
        select(versions).where(versions.c.program.in_(found)).order_by(versions.c.program, versions.c.number)
    )
    for row in stored:
        found[row.program]["versions"].append(
            {
                "number": row.number,
                "created": row.created,
                "document": msgspec.msgpack.decode(row.document),  # it holds nothing that JSON has not
            }
        )
    return list(found.values())
