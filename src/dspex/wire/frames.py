"""How messages are cut into frames, and the frames that wait until the kernel takes them."""

from __future__ import annotations

import socket
from array import array
from collections import deque
from itertools import islice

from dspex.wire.blobs import Blob

MAX_FRAME = 256 * 1024
HEADER = 4
#: The message goes on in the next frame.
MORE = 1 << 31
#: A descriptor comes with the frame's first byte; the frame begins with the blob's size.
WITH_BLOB = 1 << 30
BLOB_SIZE = 8
# Frames that one system call takes; the kernel's own limit is 1,024.
_VECTORS = 256

#: What ``sendmsg`` takes as ancillary data.
Beside = list[tuple[int, int, "array[int]"]]


class FrameQueue(deque["bytes | memoryview"]):
    """Frames in the order in which they are to be written, some with a blob beside them.

    Attributes:
        size: Their bytes.
    """

    __slots__ = ("_blobs", "_written", "size")

    def __init__(self) -> None:
        super().__init__()
        self.size = 0
        self._blobs: deque[tuple[int, Blob]] = deque()  # with the number of the frame each goes with
        self._written = 0  # frames that have left since the beginning

    def add(self, frame: bytes | memoryview, blob: Blob | None) -> None:
        """Add a frame; the queue owns its blob."""
        if blob is not None:
            self._blobs.append((self._written + len(self), blob))
        self.append(frame)
        self.size += len(frame)

    def next(self) -> tuple[list[bytes | memoryview], Beside]:
        """What one system call takes.

        The kernel passes descriptors with the first byte of a call, so a frame with a blob comes first.
        """
        if not self._blobs:
            return list(islice(self, _VECTORS)), []
        number, blob = self._blobs[0]
        if ahead := number - self._written:
            return list(islice(self, min(_VECTORS, ahead))), []
        count = self._blobs[1][0] - number if len(self._blobs) > 1 else _VECTORS
        rights = array("i", [blob.fileno()])
        return list(islice(self, min(_VECTORS, count))), [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]

    def passed_on(self) -> None:
        """The kernel has the descriptor of the first frame, whatever else of it there is to write."""
        self._blobs.popleft()[1].close()

    def take_off(self, count: int) -> None:
        """The kernel has so many bytes more."""
        self.size -= count
        while count:
            first = self[0]
            if count < len(first):
                self[0] = memoryview(first)[count:]
                return
            count -= len(first)
            self.popleft()
            self._written += 1

    def clear(self) -> None:
        """Drop all, blobs too."""
        super().clear()
        self.size = 0
        while self._blobs:
            self._blobs.popleft()[1].close()
