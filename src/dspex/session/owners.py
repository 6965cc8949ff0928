"""The runtimes that have a store open: which of them live."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from sqlalchemy import Connection, delete, select, update

from dspex.session.store import insert
from dspex.session.tables import owners, sessions, turns

#: Seconds without a sign of life after which a runtime on another host is taken for dead.
SILENCE = 30.0


def register(connection: Connection, owner: str, now: float) -> None:
    """Say that this runtime, ``owner``, has the store open; and again, that it still has."""
    new = insert(connection, owners).values(
        id=owner, host=_host(), pid=os.getpid(), born=_born(os.getpid()) or "", seen=now
    )
    connection.execute(new.on_conflict_do_update(index_elements=[owners.c.id], set_={"seen": now}))


def leave(connection: Connection, owner: str) -> None:
    """Say that it is closed."""
    _bury(connection, [owner])


def reap(connection: Connection, now: float) -> list[str]:
    """Take note of runtimes that are dead: their turns are interrupted, their leases free.

    Returns:
        Which.
    """
    rows = connection.execute(select(owners)).all()
    dead = [row.id for row in rows if not _lives(row.host, row.pid, row.born, row.seen, now)]
    if dead:
        _bury(connection, dead)
    return dead


def _bury(connection: Connection, dead: list[str]) -> None:
    connection.execute(delete(owners).where(owners.c.id.in_(dead)))
    connection.execute(
        update(turns).where(turns.c.owner.in_(dead), turns.c.status == "started").values(status="interrupted")
    )
    connection.execute(
        update(sessions)
        .where(sessions.c.lease_owner.in_(dead))
        .values(lease_owner=None, lease_call=None, lease_until=None)
    )


def _lives(host: str, pid: int, born: str, seen: float, now: float) -> bool:
    if host == _host() and born:
        return _born(pid) == born
    return seen > now - SILENCE


def _host() -> str:
    """This host, since it was started: containers may share a name, and a pid means nothing elsewhere."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        boot, space = "", ""
    return f"{platform.node()} {boot} {space}"


def _born(pid: int) -> str | None:
    """When a process was started, in ticks since the host was; None when it is gone or cannot be told."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else fields[19]
