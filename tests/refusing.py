"""Runs a command under a seccomp filter that refuses some system calls, as an old container runtime does.

::

    python -m tests.refusing pidfd_open,memfd_create -- python script.py

The filter is inherited by all that the command starts. Refused calls fail with EPERM, as Docker's profile has
it for what it does not list; ``--errno ENOSYS`` is what newer ones answer.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import platform
import struct

# The second column is arm64, where old calls have other numbers; new ones have the same everywhere.
_NUMBERS = {
    "memfd_create": {"x86_64": 319, "aarch64": 279},
    "pidfd_open": {"x86_64": 434, "aarch64": 434},
    "pidfd_send_signal": {"x86_64": 424, "aarch64": 424},
}
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
# From linux/bpf_common.h and linux/seccomp.h.
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def refuse(calls: list[str], error: int) -> None:
    """Have these system calls fail in this process, and in all that it starts."""
    numbers = [_NUMBERS[call][platform.machine()] for call in calls]
    code = [(_LOAD_WORD, 0, 0, 0)]  # the number of the call is the first word
    for number in numbers:
        code += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _FAIL | error)]
    code.append((_RETURN, 0, 0, _ALLOW))
    packed = b"".join(struct.pack("HBBI", *instruction) for instruction in code)
    program = _Program(len(code), packed)
    libc = ctypes.CDLL(None, use_errno=True)
    for call in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), f"prctl({call[0]})")


def main() -> None:
    """Run the command in this process's place."""
    options = argparse.ArgumentParser(description="Run a command with some system calls refused.")
    options.add_argument("calls", type=lambda text: text.split(","))
    options.add_argument("--errno", default="EPERM", type=lambda name: getattr(errno, name))
    options.add_argument("command", nargs=argparse.REMAINDER)
    chosen = options.parse_args()
    command = chosen.command[1:] if chosen.command[:1] == ["--"] else chosen.command
    refuse(chosen.calls, chosen.errno)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
