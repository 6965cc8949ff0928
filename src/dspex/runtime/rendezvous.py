"""Where open runtimes and those who ask for them meet: sockets in directories that nobody else may enter."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import stat
import struct
import time
from collections.abc import Iterator
from pathlib import Path

_NAME = re.compile(r"(\d+)(?:-\d+)?\.sock")
_MOST = 64  # runtimes of one process that are seen
# A socket gets its name a moment before it is listened to, so one this young (seconds) may yet answer.
_YOUNG = 5.0
_CREDENTIALS = struct.Struct("3i")  # of the peer: pid, uid, gid


def directories() -> Iterator[Path]:
    """Where sockets may lie, the best place first."""
    user = os.geteuid()
    for variable in (os.environ.get("XDG_RUNTIME_DIR"), f"/run/user/{user}"):
        # After `su` or `sudo` the variable may name the directory of somebody else.
        with contextlib.suppress(OSError):
            if variable and (place := Path(variable)).is_absolute() and place.stat().st_uid == user:
                yield place / "dspex"
    yield Path(os.environ.get("TMPDIR") or "/tmp") / f"dspex-{user}"  # noqa: S108 (trusted only if it is ours)


def open_directory(path: Path, *, create: bool = False) -> int:
    """A descriptor of the directory, which is made if asked to.

    All that follows goes by the descriptor, so that nobody can put another directory in its place.

    Raises:
        PermissionError: It belongs to somebody else, or somebody else may enter it.
        OSError: There is none, and none can be made.
    """
    if create:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    found = os.fstat(descriptor)
    if found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return descriptor
    os.close(descriptor)
    raise PermissionError(errno.EPERM, "not this user's alone", str(path))


def listen(directory: int) -> tuple[socket.socket, str]:
    """A socket that is listened to, and its name: this process's pid, and a number if that is taken.

    Raises:
        OSError: There can be none.
    """
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.setblocking(False)
        os.fchmod(listener.fileno(), 0o600)  # the mode that its name will have
        name = _bind(listener, directory)
        listener.listen()
    except BaseException:
        listener.close()
        raise
    return listener, name


def _bind(listener: socket.socket, directory: int) -> str:
    for number in range(1, _MOST + 1):
        name = f"{os.getpid()}.sock" if number == 1 else f"{os.getpid()}-{number}.sock"
        try:
            listener.bind(_address(directory, name))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return name
    raise OSError(errno.EADDRINUSE, f"{_MOST} runtimes of this process are there already")


def sockets(directory: int) -> list[tuple[str, int]]:
    """Names and pids."""
    found = [match for name in os.listdir(directory) if (match := _NAME.fullmatch(name))]
    return [(match[0], int(match[1])) for match in found]


def connect(directory: int, name: str, deadline: float) -> socket.socket | None:
    """A connection; None when nobody listens, and then the socket is gone unless it is new.

    Raises:
        OSError: Somebody listens, and took no connection in time.
    """
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        sock.connect(_address(directory, name))
        if peer(sock) == os.geteuid():
            return sock
    except FileNotFoundError:
        pass
    except ConnectionRefusedError:
        with contextlib.suppress(OSError):
            if time.time() - os.stat(name, dir_fd=directory).st_mtime > _YOUNG:
                os.unlink(name, dir_fd=directory)
    except BaseException:
        sock.close()
        raise
    sock.close()
    return None


def sweep(directory: int) -> None:
    """Take away what processes have left that were killed."""
    for name, pid in sockets(directory):
        # Those that live are not woken only to be found alive.
        if not Path(f"/proc/{pid}").exists():
            with contextlib.suppress(OSError):
                if sock := connect(directory, name, time.monotonic()):
                    sock.close()


def peer(sock: socket.socket) -> int:
    """The user on the other side."""
    packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(packed)[1]
    return uid


def _address(directory: int, name: str) -> str:
    # By the descriptor: whatever the directory's name is, this fits into the 108 bytes of an address.
    return f"/proc/self/fd/{directory}/{name}"
