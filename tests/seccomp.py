"""Has the kernel refuse system calls, as a container's seccomp profile does, and then runs a command.

``python -m tests.seccomp 434,319 command …`` refuses the calls with these numbers.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

#: Numbers of what dspex asks for, where these tests know them.
NUMBERS = {
    "x86_64": {"pidfd_open": 434, "memfd_create": 319},
    "aarch64": {"pidfd_open": 434, "memfd_create": 279},
}.get(platform.machine(), {})

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2
_LOAD_NUMBER = (0x20, 0, 0, 0)
_ALLOW = (0x06, 0, 0, 0x7FFF0000)
_REFUSE = (0x06, 0, 0, 0x00050000 | errno.EPERM)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def refuse(numbers: list[int]) -> None:
    """Refuse these calls to this process, and to all that it becomes and starts, with EPERM."""
    program = [_LOAD_NUMBER]
    for number in numbers:
        program += [(0x15, 0, 1, number), _REFUSE]  # if it is this one go on, else skip one
    program.append(_ALLOW)
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    libc = ctypes.CDLL(None, use_errno=True)
    filtered = ctypes.byref(_Program(len(program), code))
    for arguments in ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _MODE_FILTER, filtered)):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "no seccomp here")


if __name__ == "__main__":
    refuse([int(number) for number in sys.argv[1].split(",")])
    os.execv(sys.argv[2], sys.argv[2:])
