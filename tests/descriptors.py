"""Questions about descriptors that tests ask, and the sandboxes that refuse them."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
from pathlib import Path

_MEMFD_CREATE = {"x86_64": 319, "aarch64": 279}


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (one that is listed may be gone)


def leave_free(count: int) -> None:
    """Lower the limit of open files until this process can open only so many more."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limit = free = 0
    while free <= count:
        limit += 1
        free += not _is_open(limit)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def memories() -> int:
    """How many of them are sealed memory of dspex's."""
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found += str(entry.readlink()).startswith("/memfd:dspex")
        except FileNotFoundError:
            continue
    return found


def refuse_memfd(error: int) -> None:
    """From here on ``memfd_create`` fails in this process and all that it starts, as in a sandbox."""
    load, jump, give = 0x20, 0x15, 0x06
    program = b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (load, 0, 0, 0),  # the system call's number
            (jump, 0, 1, _MEMFD_CREATE[platform.machine()]),
            (give, 0, 0, 0x00050000 | error),  # fail with that
            (give, 0, 0, 0x7FFF0000),  # allow
        )
    )
    code = ctypes.create_string_buffer(program)
    loaded = struct.pack("HxxxxxxP", 4, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_seccomp, filters = 38, 22, 2
    assert libc.prctl(no_new_privileges, 1, 0, 0, 0) == 0
    assert libc.prctl(set_seccomp, filters, ctypes.create_string_buffer(loaded), 0, 0) == 0
