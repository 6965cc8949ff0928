"""Large values beside the channel: sealed memory, passed as a descriptor instead of as bytes.

A blob is a ``memfd`` that nobody can write to, grow or shrink any more. Who makes one fills it on his own
thread; the processes in between hand the descriptor on and never touch the bytes; who receives one maps it
for reading. The seals are checked first, so that no other process can change or cut what is being read.

The memory belongs to nobody's heap: it counts against the cgroup of the process that filled it, and is gone
when the last descriptor and the last mapping are. It is not in ``/dev/shm``, whose size does not matter.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import mmap
import os
import stat
import weakref
from collections.abc import Iterator, Sequence

# All but writing to a mapping that exists, which F_SEAL_WRITE would have refused to seal.
_SEALS = (
    (fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    if hasattr(fcntl, "F_SEAL_WRITE")
    else 0
)
# MFD_NOEXEC_SEAL, which Python has no name for yet: kernels that know it warn, or refuse, without it.
_NOEXEC = 0x8
# One write takes at most 2 GiB less a page.
_LONGEST_WRITE = 1 << 30


class BlobError(ValueError):
    """A descriptor that was received is not a blob of the announced size."""


class Blob:
    """Sealed memory behind a descriptor that this object owns and closes once.

    One owner uses it at a time, on any thread.

    Attributes:
        size: Its bytes.
    """

    __slots__ = ("__weakref__", "_descriptor", "size")

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self.size = size
        _open.add(self)

    @classmethod
    def of(cls, pieces: Sequence[bytes]) -> Blob:
        """A new blob that holds these bytes, one after the other.

        Raises:
            OSError: No memory, no free descriptor, or no ``memfd`` here.
        """
        descriptor = _create()
        try:
            size = 0
            for piece in pieces:
                left = memoryview(piece)
                while left:
                    written = os.write(descriptor, left[:_LONGEST_WRITE])
                    left = left[written:]
                    size += written
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor, size)

    @classmethod
    def received(cls, descriptor: int, size: int, limit: int) -> Blob:
        """A blob out of a descriptor that another process sent; owns the descriptor also when it raises.

        Args:
            descriptor: The descriptor; -1 for one that this process had no room for. Then the blob is lost,
                and reading it raises.
            size: The bytes that were announced.
            limit: The most bytes that are taken.

        Raises:
            BlobError: It is too large, not of that size, or could be changed while it is read.
        """
        blob = cls(descriptor, size)
        try:
            blob._check(limit)
        except BaseException:
            blob.close()
            raise
        return blob

    def _check(self, limit: int) -> None:
        if self.size > limit:
            raise BlobError(f"a blob of {self.size:,} bytes is over the limit of {limit:,}")
        if self.lost:
            return
        try:
            seals = fcntl.fcntl(self._descriptor, fcntl.F_GET_SEALS)
        except OSError:
            raise BlobError("a descriptor that is no memfd") from None
        if seals & _SEALS != _SEALS:
            raise BlobError("a blob that is not sealed")
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size != self.size or not self.size:
            raise BlobError(f"a blob of {status.st_size:,} bytes that was announced as {self.size:,}")

    @property
    def lost(self) -> bool:
        """Whether there is nothing to read: it is closed, or never found a free descriptor here."""
        return self._descriptor < 0

    def fileno(self) -> int:
        """The descriptor, which stays this object's.

        Raises:
            OSError: It is closed, or could not be received.
        """
        if self._descriptor < 0:
            raise OSError(errno.EMFILE, "no descriptor was free to receive it (see `ulimit -n`)")
        return self._descriptor

    def copy(self) -> Blob:
        """The same memory under a descriptor of its own.

        Raises:
            OSError: No descriptor is free.
        """
        return Blob(os.dup(self.fileno()), self.size)

    def read(self) -> bytes:
        """A copy of its bytes, which takes no further descriptor."""
        parts, position = [], 0
        while position < self.size:
            parts.append(os.pread(self.fileno(), self.size - position, position))
            position += len(parts[-1])
        return b"".join(parts)

    @contextlib.contextmanager
    def mapped(self) -> Iterator[memoryview]:
        """Its bytes, without a copy. What is decoded from them must not be a view of them.

        Raises:
            OSError: It is closed or lost, or there is no memory for the mapping.
        """
        # Private, for kernels before 6.7 refuse a shared mapping of what is sealed; nothing writes to it, so
        # nothing is copied. The pages are entered in one go, not by a fault each.
        flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_POPULATE", 0)
        mapping = mmap.mmap(self.fileno(), self.size, flags=flags, prot=mmap.PROT_READ)
        view = memoryview(mapping)
        try:
            yield view
        finally:
            # An error's traceback may still hold a part of it; then it is unmapped with that.
            with contextlib.suppress(BufferError):
                view.release()
                mapping.close()

    def close(self) -> None:
        """Let go of the descriptor. Safe to repeat."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


def available() -> bool:
    """Whether this system has sealed memory; where it has none, large values travel as frames.

    Sandboxes (seccomp) refuse it, and so do systems other than Linux.
    """
    try:
        return _is_allowed()
    except OSError:
        return False  # no descriptor or no memory is free now, which may be otherwise the next time


@functools.cache
def _is_allowed() -> bool:
    try:
        Blob.of([b"\0"]).close()
    except AttributeError:
        return False
    except OSError as error:
        if error.errno in {errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EINVAL}:
            return False
        raise
    return True


def _create() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create("dspex", flags | _NOEXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.memfd_create("dspex", flags)  # a kernel before 6.3


_open: weakref.WeakSet[Blob] = weakref.WeakSet()


def _close_all() -> None:
    # In the child of a fork: a copy there would keep the memory of calls that are long over.
    for blob in list(_open):
        blob.close()


os.register_at_fork(after_in_child=_close_all)
