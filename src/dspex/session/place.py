"""Where a store is: in memory, in a file, or behind a database URL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from dspex.errors import InvalidOption

_MEMORY = "memory"


@dataclass(frozen=True, slots=True, repr=False)
class Place:
    """Where a store is.

    Attributes:
        url: For SQLAlchemy.
        path: The file, for SQLite outside memory.
    """

    url: URL
    path: Path | None = None

    def __repr__(self) -> str:
        return f"Place({self.shown!r})"

    @property
    def is_sqlite(self) -> bool:
        """Whether it is SQLite, in a file or in memory."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def outlives(self) -> bool:
        """Whether it is there after this process."""
        return not self.is_sqlite or self.path is not None

    @property
    def shown(self) -> str:
        """It without its password."""
        if self.is_sqlite:
            return "memory" if self.path is None else str(self.path)
        return self.url.set(query={}).render_as_string(hide_password=True)


def place_of(store: str | Path) -> Place:
    """What ``store=`` names.

    Raises:
        InvalidOption: It is neither ``"memory"`` nor a file nor a URL of SQLite or PostgreSQL.
    """
    if store == _MEMORY:
        return Place(URL.create("sqlite", database=":memory:"))
    text = str(store)
    if isinstance(store, Path) or "://" not in text:
        if not text or "\0" in text:
            raise _refused("an empty path" if not text else "a path with U+0000")
        path = Path(text).expanduser().absolute()
        return Place(URL.create("sqlite", database=str(path)), path)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # such as a port that is no number
        raise _refused("what is no URL") from None  # its text may hold a password
    backend = url.get_backend_name()
    if backend == "sqlite":
        return place_of("memory" if url.database in {None, "", ":memory:"} else Path(url.database or ""))
    if backend in {"postgresql", "postgres"}:
        return Place(_for_asyncpg(url))
    raise _refused(f"a URL of {backend}")


def _for_asyncpg(url: URL) -> URL:
    """The URL of any driver of PostgreSQL, as they are handed out, for the one that is used here."""
    url = url.set(drivername="postgresql+asyncpg")
    if "sslmode" in url.query:
        # What the others call "sslmode", it calls "ssl".
        mode = url.query["sslmode"]
        url = url.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
    return url


def _refused(what: str) -> InvalidOption:
    return InvalidOption(
        f"store is 'memory', a file, or a URL such as 'postgresql+asyncpg://user@host/name', not {what}",
        details={"option": "store"},
    )
