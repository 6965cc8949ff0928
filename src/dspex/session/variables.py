"""The variables of a session: values by name, each with a version that changes with it."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, delete, select, update

from dspex.session import sessions
from dspex.session.find import find
from dspex.session.store import insert
from dspex.session.tables import variables


class Variable(NamedTuple):
    """A variable as it is stored.

    Attributes:
        value: Its encoded value.
        version: Changes with each writing.
    """

    value: bytes
    version: int


def read(
    connection: Connection, tenant: str, session_id: str, name: str, now: float, *, use: bool = True
) -> Variable | None:
    """A variable; None where there is none.

    Args:
        connection: The store's.
        tenant: Whose the session is; empty for none.
        session_id: Its id.
        name: The variable's name.
        now: Seconds since 1970.
        use: Whether the session lives on from this, which is a change of its row.

    Raises:
        UnknownSession: There is no such session.
        SessionExpired: There was one.
    """
    looked = sessions.touch if use else find
    key = looked(connection, tenant, session_id, now).key
    row = connection.execute(
        select(variables.c.value, variables.c.version).where(
            variables.c.session == key, variables.c.name == name
        )
    ).one_or_none()
    return None if row is None else Variable(row.value, row.version)


def everything(connection: Connection, tenant: str, session_id: str, now: float) -> dict[str, bytes]:
    """All variables by name, in alphabetical order. It is a use of the session.

    Raises:
        UnknownSession: There is no such session.
        SessionExpired: There was one.
    """
    key = sessions.touch(connection, tenant, session_id, now).key
    rows = connection.execute(
        select(variables.c.name, variables.c.value)
        .where(variables.c.session == key)
        .order_by(variables.c.name)
    )
    return {row.name: row.value for row in rows}


def write(connection: Connection, tenant: str, session_id: str, name: str, value: bytes, now: float) -> None:
    """Set a variable, whatever it was.

    Raises:
        UnknownSession: There is no such session.
        SessionExpired: There was one.
    """
    key = sessions.touch(connection, tenant, session_id, now).key
    new = insert(connection, variables).values(session=key, name=name, value=value, version=1, changed=now)
    connection.execute(
        new.on_conflict_do_update(
            index_elements=[variables.c.session, variables.c.name],
            set_={"value": value, "version": variables.c.version + 1, "changed": now},
        )
    )


def swap(
    connection: Connection,
    tenant: str,
    session_id: str,
    name: str,
    value: bytes,
    now: float,
    *,
    version: int | None,
) -> bool:
    """Set a variable if it is still of this version; None is one that is not there.

    Returns:
        Whether it was, and is set.

    Raises:
        UnknownSession: There is no such session.
        SessionExpired: There was one.
    """
    key = sessions.touch(connection, tenant, session_id, now).key
    if version is None:
        new = insert(connection, variables).values(
            session=key, name=name, value=value, version=1, changed=now
        )
        return connection.execute(new.on_conflict_do_nothing()).rowcount == 1
    changed = connection.execute(
        update(variables)
        .where(variables.c.session == key, variables.c.name == name, variables.c.version == version)
        .values(value=value, version=version + 1, changed=now)
    )
    return changed.rowcount == 1


def remove(connection: Connection, tenant: str, session_id: str, name: str, now: float) -> bool:
    """Remove a variable.

    Returns:
        Whether it was there.

    Raises:
        UnknownSession: There is no such session.
        SessionExpired: There was one.
    """
    key = sessions.touch(connection, tenant, session_id, now).key
    gone = connection.execute(delete(variables).where(variables.c.session == key, variables.c.name == name))
    return gone.rowcount == 1
