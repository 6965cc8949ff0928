"""Databases for tests: memory, a file, and PostgreSQL, which is started on a free port when it is needed."""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.processes import until

if TYPE_CHECKING:
    from dspex.session.store import Store

__all__ = ["database", "postgresql", "store", "where"]

_MISSING = "PostgreSQL is not installed; Debian has it in its package postgresql"
# Nothing of it has to outlive the tests, so it never waits for a disk.
_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "200",
    "autovacuum": "off",
}


class Server:
    """A PostgreSQL server of the tests' own, as a user that it accepts; it ends with this process.

    Args:
        programs: The directory of its programs.

    Attributes:
        port: Where it listens, on 127.0.0.1.
    """

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._user = _unprivileged()
        self._folder = Path(tempfile.mkdtemp(prefix="dspex-postgresql-"))
        if self._user is not None:
            os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
        self.port = _free_port()
        self._where = ["-h", "127.0.0.1", "-p", str(self.port)]
        self._server: subprocess.Popen[bytes] | None = None
        made = subprocess.run(
            [
                *self._as_user(),
                programs / "initdb",
                "-D",
                self._folder / "data",
                "-U",
                "dspex",
                "-E",
                "UTF8",
                "--locale=C",
                "--auth=trust",
                "--no-sync",
                "--no-instructions",
                "--wal-segsize=1",
            ],
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise RuntimeError(f"PostgreSQL makes no database: {made.stderr}")

    def _as_user(self) -> list[str]:
        """What a program runs under: as that user, and ended when the tests end, however they do."""
        under = ["setpriv", "--pdeathsig", "QUIT"]
        if self._user is not None:
            under += [f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}", "--clear-groups"]
        return [*under, "--"]

    def start(self) -> None:
        """Start it, and wait until it answers.

        On the main thread, for it ends with the thread that starts it.
        """
        options = [part for name, value in _OPTIONS.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [
                    *self._as_user(),
                    self._programs / "postgres",
                    "-D",
                    self._folder / "data",
                    "-p",
                    str(self.port),
                    "-k",
                    str(self._folder),
                    *options,
                ],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until(self._answers, 60.0)

    def _answers(self) -> bool:
        assert self._server is not None
        if self._server.poll() is not None:
            raise RuntimeError(f"PostgreSQL has ended: {(self._folder / 'log').read_text()[-2000:]}")
        return (
            subprocess.run([self._programs / "pg_isready", "-q", *self._where], check=False).returncode == 0
        )

    def stop(self) -> None:
        """End it at once, as a crash would; ``start`` has it again, on the same port."""
        if self._server is not None:
            self._server.send_signal(signal.SIGQUIT)
            self._server.wait(30)
            self._server = None

    def freeze(self) -> None:
        """Have all of it stand still, as a machine that is lost to the network; ``thaw`` ends that."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Have it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        import psutil

        assert self._server is not None
        main = psutil.Process(self._server.pid)
        for process in [main, *main.children(recursive=True)]:
            process.send_signal(number)

    def remove(self) -> None:
        """End it and leave nothing."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, name: str) -> str:
        """What ``store=`` takes for one of its databases."""
        return f"postgresql+asyncpg://dspex@127.0.0.1:{self.port}/{name}"

    def sql(self, text: str, name: str = "postgres") -> str:
        """What a statement gives, a row a line and its columns divided by ``|``."""
        ran = subprocess.run(
            [
                self._programs / "psql",
                "-qAtX",
                "-v",
                "ON_ERROR_STOP=1",
                *self._where,
                "-U",
                "dspex",
                "-d",
                name,
                "-c",
                text,
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if ran.returncode != 0:
            raise RuntimeError(ran.stderr)
        return ran.stdout.rstrip("\n")


def _unprivileged() -> pwd.struct_passwd | None:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("there is no user that PostgreSQL could run as")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@functools.cache
def programs() -> Path | None:
    """The newest PostgreSQL that is installed."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if found:
        return max(found, key=lambda path: int(path.parent.name))
    elsewhere = shutil.which("postgres")
    return None if elsewhere is None else Path(elsewhere).resolve().parent


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A PostgreSQL server; skipped where its programs are missing, which fails in CI."""
    found = programs()
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(_MISSING)
        pytest.skip(_MISSING)
    server = Server(found)
    try:
        server.start()
        yield server
    finally:
        server.remove()


def _new(server: Server) -> Iterator[str]:
    name = f"t{uuid.uuid4().hex}"
    server.sql(f"CREATE DATABASE {name}")
    yield server.url(name)
    server.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def database(postgresql: Server) -> Iterator[str]:
    """What ``store=`` takes: an empty database of a PostgreSQL server, for this test alone."""
    yield from _new(postgresql)


@pytest.fixture(params=["memory", "file", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """What ``store=`` takes, of each kind: an empty store for this test alone."""
    if request.param == "memory":
        yield "memory"
    elif request.param == "file":
        yield str(tmp_path / "store" / "dspex.db")
    else:
        yield from _new(request.getfixturevalue("postgresql"))


@pytest.fixture
async def store(where: str, anyio_backend: Callable[[], str]) -> AsyncIterator[Store]:
    """An open store of each kind, empty, on the test's loop."""
    from dspex.session.place import place_of
    from dspex.session.store import Store

    opened = Store(place_of(where))
    await opened.open()
    yield opened
    await opened.aclose()
