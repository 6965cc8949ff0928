"""Stored programs: made, found, given new versions, rolled back, listed, deleted."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, delete, select, update

from dspex.errors import InvalidOption, UnknownProgram
from dspex.session import sessions as sessions_
from dspex.session.find import expired, find
from dspex.session.store import insert
from dspex.session.tables import programs, sessions, versions


class Current(NamedTuple):
    """A program as calls run it now.

    Attributes:
        id: Its id.
        name: Its name, if it has one.
        version: Its version.
        session_id: Its session.
        anonymous: Whether that was made for it.
        ttl: Seconds that the session lives after each use; None for ever.
        expires: When it ends, in seconds since 1970; None never.
    """

    id: str
    name: str | None
    version: int
    session_id: str
    anonymous: bool
    ttl: float | None
    expires: float | None


class Stored(NamedTuple):
    """A program with all its versions.

    Attributes:
        id: Its id.
        name: Its name, if it has one.
        version: The version that calls run.
        created: When it was made, in seconds since 1970.
        versions: The number of each version, when it was made, and its encoded document.
    """

    id: str
    name: str | None
    version: int
    created: float
    versions: list[tuple[int, float, bytes]]


def create(
    connection: Connection,
    tenant: str,
    session_id: str,
    program_id: str,
    name: str | None,
    document: bytes,
    now: float,
) -> None:
    """Make a program; its first version is 1.

    Raises:
        InvalidOption: Another program of the session has that name.
        UnknownSession: There is no such session.
        SessionExpired: There was one.
    """
    key = sessions_.touch(connection, tenant, session_id, now).key
    made = connection.execute(
        insert(connection, programs)
        .values(id=program_id, session=key, name=name, created=now, version=1, latest=1)
        .on_conflict_do_nothing()
    )
    if made.rowcount != 1:
        raise InvalidOption(
            f"the session {session_id!r} has a program {name!r} already; session.program({name!r}) gives it, "
            "and its change(...) makes a new version",
            details={"option": "name"},
        )
    connection.execute(
        insert(connection, versions).values(program=program_id, number=1, created=now, document=document)
    )


_OF_PROGRAM = (
    programs.c.id,
    programs.c.name,
    programs.c.version,
    sessions.c.id.label("session_id"),
    sessions.c.anonymous,
    sessions.c.ttl,
    sessions.c.expires,
    sessions.c.ended,
)
_CURRENT = (
    select(*_OF_PROGRAM)
    .join_from(programs, sessions, programs.c.session == sessions.c.key)
    .where(programs.c.id == bindparam("b_id"), sessions.c.tenant == bindparam("b_tenant"))
)


def current(
    connection: Connection, tenant: str, program_id: str, session_id: str | None, now: float
) -> Current:
    """A program by its id.

    Args:
        connection: The store's.
        tenant: Whose; empty for none.
        program_id: Its id.
        session_id: Its session; None is whichever it is.
        now: Seconds since 1970.

    Raises:
        UnknownProgram: There is none, or it is of another session.
        UnknownSession: There is no such session.
        SessionExpired: Its session has expired.
    """
    if session_id is not None:
        find(connection, tenant, session_id, now)
    row = connection.execute(_CURRENT, {"b_id": program_id, "b_tenant": tenant}).one_or_none()
    if row is None or (session_id is not None and row.session_id != session_id):
        raise unknown(program_id)
    if row.ended or (row.expires is not None and row.expires <= now):
        raise expired(row.session_id)
    return _current(row)


def by_name(connection: Connection, tenant: str, session_id: str, name: str, now: float) -> Current:
    """A program of a session by its name or its id.

    Raises:
        UnknownProgram: There is none.
        UnknownSession: There is no such session.
        SessionExpired: There was one.
    """
    key = find(connection, tenant, session_id, now).key
    row = connection.execute(
        select(*_OF_PROGRAM)
        .join_from(programs, sessions, programs.c.session == sessions.c.key)
        .where(programs.c.session == key, (programs.c.name == name) | (programs.c.id == name))
        .order_by(programs.c.name.is_(None))  # a name goes before an id that looks like it
        .limit(1)
    ).one_or_none()
    if row is None:
        raise unknown(name)
    return _current(row)


def _current(row: Any) -> Current:
    return Current(row.id, row.name, row.version, row.session_id, row.anonymous, row.ttl, row.expires)


def unknown(program_id: str) -> UnknownProgram:
    """The error for a program that is not there."""
    return UnknownProgram(
        f"no program {program_id!r} here; session.programs() lists those of a session, and each tenant has "
        "its own",
        details={"program_id": program_id},
    )


_DOCUMENT = select(versions.c.document).where(
    versions.c.program == bindparam("b_id"), versions.c.number == bindparam("b_number")
)


def document(connection: Connection, program_id: str, number: int) -> bytes | None:
    """One version's encoded document; None where there is none."""
    found: bytes | None = connection.execute(
        _DOCUMENT, {"b_id": program_id, "b_number": number}
    ).scalar_one_or_none()
    return found


def add_version(
    connection: Connection, tenant: str, program_id: str, based_on: int, made: bytes, now: float
) -> int | None:
    """Give a program a new version, and have calls run it.

    Args:
        connection: The store's.
        tenant: Whose; empty for none.
        program_id: The program.
        based_on: The version that was changed.
        made: The new document.
        now: Seconds since 1970.

    Returns:
        Its number; None when calls run another version than the changed one by now.

    Raises:
        UnknownProgram: There is no such program.
        SessionExpired: Its session has expired.
    """
    current(connection, tenant, program_id, None, now)
    number = connection.execute(
        update(programs)
        .where(programs.c.id == program_id, programs.c.version == based_on)
        .values(latest=programs.c.latest + 1, version=programs.c.latest + 1)
        .returning(programs.c.latest)
    ).scalar_one_or_none()
    if number is not None:
        connection.execute(
            insert(connection, versions).values(program=program_id, number=number, created=now, document=made)
        )
    return number


def roll_back(connection: Connection, tenant: str, program_id: str, number: int, now: float) -> None:
    """Have calls run an earlier or later version.

    Raises:
        InvalidOption: There is no such version.
        UnknownProgram: There is no such program.
        SessionExpired: Its session has expired.
    """
    current(connection, tenant, program_id, None, now)
    known = (
        connection.execute(
            select(versions.c.number).where(versions.c.program == program_id).order_by(versions.c.number)
        )
        .scalars()
        .all()
    )
    if number not in known:
        raise InvalidOption(
            f"the program has no version {number}; it has {', '.join(map(str, known))}",
            details={"option": "version", "known": list(known)},
        )
    connection.execute(update(programs).where(programs.c.id == program_id).values(version=number))


def listed(connection: Connection, tenant: str, session_id: str, now: float) -> list[Stored]:
    """The programs of a session with all their versions, the oldest first.

    Raises:
        UnknownSession: There is no such session.
        SessionExpired: There was one.
    """
    key = find(connection, tenant, session_id, now).key
    rows = connection.execute(
        select(programs).where(programs.c.session == key).order_by(programs.c.created, programs.c.id)
    ).all()
    return [_stored(connection, row) for row in rows]


def stored(connection: Connection, tenant: str, program_id: str, now: float) -> Stored:
    """A program with all its versions.

    Raises:
        UnknownProgram: There is no such program.
        SessionExpired: Its session has expired.
    """
    current(connection, tenant, program_id, None, now)
    return _stored(connection, connection.execute(select(programs).where(programs.c.id == program_id)).one())


def _stored(connection: Connection, row: Any) -> Stored:
    made = connection.execute(
        select(versions.c.number, versions.c.created, versions.c.document)
        .where(versions.c.program == row.id)
        .order_by(versions.c.number)
    )
    numbered = [(one.number, one.created, one.document) for one in made]
    return Stored(row.id, row.name, row.version, row.created, numbered)


def remove(connection: Connection, tenant: str, program_id: str, now: float) -> None:
    """Delete a program with all its versions; its turns stay.

    Raises:
        UnknownProgram: There is no such program.
        SessionExpired: Its session has expired.
    """
    current(connection, tenant, program_id, None, now)
    connection.execute(delete(programs).where(programs.c.id == program_id))
