"""Checks of what dspex asks of the kernel; a container's seccomp profile may refuse any of it."""

from __future__ import annotations

import fcntl
import os
import select
import socket

from dspex.cli.doctor.finding import Finding

_ALLOW = "run the container with a seccomp profile that allows it: docker run --security-opt seccomp=FILE ..."


def pidfd() -> Finding:
    """``pidfd_open``: how the end of a process is noticed, and the right one killed."""
    try:
        descriptor = os.pidfd_open(os.getpid())
    except OSError as error:
        return Finding(
            "broken",
            f"pidfd_open is refused ({error.strerror}), and without it no worker can be watched or killed",
            f"{_ALLOW} (Linux 5.3 and gVisor have it)",
        )
    os.close(descriptor)
    return Finding("ok", "processes can be watched by descriptor (pidfd_open)")


def memfd() -> Finding:
    """``memfd_create`` and seals: how large values pass between processes."""
    message = b"sealed"
    try:
        descriptor = os.memfd_create("dspex-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.write(descriptor, message)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK)
            sealed = os.pread(descriptor, len(message), 0) == message
        finally:
            os.close(descriptor)
    except OSError as error:
        return Finding(
            "warning",
            f"memfd_create is refused ({error.strerror}): large values go by socket, which takes longer",
            _ALLOW,
        )
    return Finding("ok" if sealed else "warning", "files in memory can be sealed (memfd_create)")


def passing() -> Finding:
    """``SCM_RIGHTS``: how a worker gets its channel from the supervisor."""
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        with ours, theirs:
            try:
                socket.send_fds(ours, [b"x"], [write_end])
                received = socket.recv_fds(theirs, 1, 1)[1]
            finally:
                os.close(write_end)
            for descriptor in received:
                os.write(descriptor, b"x")
                os.close(descriptor)
        arrived = bool(select.select([read_end], [], [], 0)[0]) and os.read(read_end, 1) == b"x"
        os.close(read_end)
    except OSError as error:
        return Finding("broken", f"descriptors cannot be passed between processes: {error}", _ALLOW)
    if not arrived:
        return Finding("broken", "a descriptor that was passed between processes did not arrive", _ALLOW)
    return Finding("ok", "descriptors can be passed between processes (SCM_RIGHTS)")
