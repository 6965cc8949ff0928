"""One socket between two processes, carrying framed messages in order, both ways.

A frame is a header of four bytes (30 bits of length, two flags) and at most 256 KiB. The top bit says that
the message goes on in the next frame. The second says that a blob belongs to the message: its descriptor
comes with the frame's first byte, and the frame begins with the blob's size in eight bytes. So large values
pass beside the messages, which overtake them, and nobody on the way copies them.

The first frame of a turn of the loop is written at once, those that follow in the same turn together; what
the kernel does not take is queued, and reading never waits for writing. Whatever is malformed ends this
channel with a reason, and nothing else.

The reader is ours because asyncio's transports drop descriptors that are passed beside the data, and
because writing at once instead of on the loop's next turn halves the time of a round trip.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from array import array
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from dspex.errors import PayloadTooLarge
from dspex.wire.blobs import Blob, BlobError
from dspex.wire.frames import BLOB_SIZE, HEADER, MAX_FRAME, MORE, WITH_BLOB, FrameQueue
from dspex.wire.messages import Message, encode

# Bytes that may wait to be written before the other side counts as slow.
_HIGH_WATER = 4 * MAX_FRAME
# Seconds between two looks at a socket that is full, in `flushed`, or that takes no descriptors for now.
_RETRY = 0.002
_DESCRIPTOR = array("i").itemsize
# One is sent at a time, so this is more than enough.
_ANCILLARY = socket.CMSG_SPACE(2 * _DESCRIPTOR)
# As plain numbers: an operation on an enum takes as long as the system call.
_CLOSED_ON_EXEC = int(socket.MSG_CMSG_CLOEXEC)
# How often `read_now` reads at most; one read takes what a socket holds.
_READS = 16
_CUT = int(socket.MSG_CTRUNC)
_FLAGS = MORE | WITH_BLOB
_read_head = struct.Struct("<I").unpack_from

M = TypeVar("M")


class Channel(Generic[M]):
    """One end of the socket, on the running event loop.

    Args:
        sock: A connected stream socket; the channel owns it from here on.
        decode: Reads the messages that may arrive.
        on_message: Called with each message and the blob beside it, in order, on the loop; the blob is the
            receiver's to close.
        on_close: Called once when nothing more will arrive, with the reason, or with None when the
            other side closed between two messages.
        limit: The largest message in bytes, sent or received.
        blob_limit: The largest blob in bytes that is taken.
        on_drained: Called when the other side was slow, and has read most of what waited for it.
    """

    def __init__(
        self,
        sock: socket.socket,
        decode: Callable[[bytes], M],
        *,
        on_message: Callable[[M, Blob | None], None],
        on_close: Callable[[str | None], None],
        limit: int,
        blob_limit: int = 0,
        on_drained: Callable[[], None] | None = None,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._decode = decode
        self._on_message = on_message
        self._on_close = on_close
        self._on_drained = on_drained
        self._limit = limit
        self._blob_limit = blob_limit
        self._longest_frame = min(limit, MAX_FRAME)
        self._buffer = bytearray(2 * (MAX_FRAME + HEADER))
        self._view = memoryview(self._buffer)
        self._whole = [self._view]
        self._start = self._end = 0
        self._parts: list[bytes] = []
        self._parts_size = 0
        self._arrived: deque[int] = deque()  # descriptors whose frame is not whole yet; -1 for a lost one
        self._beside: int | None = None  # the descriptor of the message whose parts are being read
        self._waiting = FrameQueue()
        self._pause: asyncio.TimerHandle | None = None
        self._writable = True
        self._in_burst = False
        self._awaits_kernel = False
        self._reading = True
        self._loop.add_reader(sock.fileno(), self._read_some)

    # Writing

    @property
    def gone(self) -> bool:
        """Whether the other side is gone: what is sent is dropped."""
        return not self._writable

    @property
    def congested(self) -> bool:
        """Whether the other side is slow to read: give it nothing more if there is a choice."""
        return self._waiting.size > _HIGH_WATER

    async def flushed(self) -> None:
        """Wait until the kernel has all that was sent, or the other side is gone."""
        while self._waiting:
            if self._pause is None:
                self._write_some()
            await asyncio.sleep(0 if not self._waiting else _RETRY)

    def send(self, message: Message, blob: Blob | None = None) -> None:
        """Send a message; never waits. What is sent to a side that is gone is dropped.

        Args:
            message: The message.
            blob: What goes beside it. It is the channel's from here on, and closed once it was passed on, or
                cannot be.

        Raises:
            PayloadTooLarge: The message is over the limit; nothing was sent.
        """
        flag = 0
        try:
            data = encode(message)
            if blob is not None:
                flag = WITH_BLOB
                data = blob.size.to_bytes(BLOB_SIZE, "little") + data
        except BaseException:
            if blob is not None:
                blob.close()
            raise
        size = len(data)
        if size > self._limit:
            if blob is not None:
                blob.close()
            raise self._too_large(size)
        if size <= MAX_FRAME:
            self._write((size | flag).to_bytes(HEADER, "little") + data, blob)
            return
        view = memoryview(data)
        for start in range(0, size, MAX_FRAME):
            part = view[start : start + MAX_FRAME]
            more = MORE if start + MAX_FRAME < size else 0
            self._write((len(part) | more | flag).to_bytes(HEADER, "little") + part, blob)
            flag, blob = 0, None

    def _too_large(self, size: int) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"a message of {size:,} bytes is over the limit of {self._limit:,}; send less, or raise "
            "Settings(max_payload=...)",
            details={"size": size, "limit": self._limit},
        )

    def _write(self, frame: bytes, blob: Blob | None) -> None:
        """Write at once if this is the first frame of the loop's turn, else together with those before it.

        A lone frame gains from leaving early, a burst from being one system call.
        """
        if not self._writable:
            if blob is not None:
                blob.close()
            return
        rest: bytes | memoryview = frame
        first = not self._in_burst
        if first:
            self._in_burst = True
            self._loop.call_soon(self._end_burst)
            if not self._waiting and blob is None:
                try:
                    sent = self._sock.send(frame)
                except (BlockingIOError, InterruptedError):
                    sent = 0
                except OSError:
                    self._stop_writing()
                    return
                if sent == len(frame):
                    return
                rest = memoryview(frame)[sent:]
        self._waiting.add(rest, blob)
        if blob is not None and first and len(self._waiting) == 1:
            self._write_some()

    def _end_burst(self) -> None:
        self._in_burst = False
        if self._waiting and not self._awaits_kernel and self._pause is None:
            self._write_some()

    def _write_some(self) -> None:
        was_congested = self.congested
        while self._waiting:
            frames, beside = self._waiting.next()
            try:
                sent = self._sock.sendmsg(frames, beside)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if error.errno == errno.ETOOMANYREFS:
                    # Too many descriptors of this user are on their way, and nobody tells when there is room.
                    self._pause = self._loop.call_later(_RETRY, self._go_on)
                    break
                self._stop_writing()
                return
            if beside:
                self._waiting.passed_on()
            self._waiting.take_off(sent)
        if (bool(self._waiting) and self._pause is None) != self._awaits_kernel:
            self._awaits_kernel = not self._awaits_kernel
            if self._awaits_kernel:
                self._loop.add_writer(self._sock.fileno(), self._write_some)
            else:
                self._loop.remove_writer(self._sock.fileno())
        if was_congested and not self.congested and self._on_drained is not None:
            self._on_drained()

    def _go_on(self) -> None:
        self._pause = None
        self._write_some()

    def _stop_writing(self) -> None:
        # The other side is gone. What it had sent before is still to be read, so reading goes on.
        if self._writable:
            self._writable = False
            self._waiting.clear()
            if self._pause is not None:
                self._pause.cancel()
            if self._sock.fileno() >= 0:
                self._loop.remove_writer(self._sock.fileno())

    # Reading

    def read_to_end(self) -> None:
        """Deliver all that a process which is dead by now had sent."""
        while self._reading and self._read_some():
            pass

    def read_now(self) -> None:
        """Deliver what has come by now, though not for ever if the other side goes on sending."""
        for _ in range(_READS):
            if not self._reading or not self._read_some():
                break

    def _read_some(self) -> bool:
        """Read once and deliver what is whole; False when there was nothing."""
        free = self._whole
        if self._start == self._end:
            self._start = self._end = 0  # the same few lines of cache, while messages are small
        else:
            if len(self._view) - self._end < HEADER + MAX_FRAME // 2:
                self._view[: self._end - self._start] = self._view[self._start : self._end]
                self._start, self._end = 0, self._end - self._start
            free = [self._view[self._end :]]
        try:
            count, ancillary, flags, _ = self._sock.recvmsg_into(free, _ANCILLARY, _CLOSED_ON_EXEC)
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionResetError:
            count, ancillary, flags = 0, [], 0  # it is gone, and had not read all that was sent to it
        except OSError as error:
            self._finish(f"the channel broke: {error.strerror}")
            return False
        if count == 0:
            whole = self._start == self._end and not self._parts
            self._finish(None if whole else "the channel ended in the middle of a message")
            return False
        self._end += count
        if ancillary or flags & _CUT:
            self._receive(ancillary, cut=bool(flags & _CUT))
        self._deliver()
        if self._arrived:
            self._check_arrived()
        return True

    def _receive(self, ancillary: list[tuple[int, int, bytes]], *, cut: bool) -> None:
        """Take the descriptors that came with what was just read."""
        count = len(self._arrived)
        for level, kind, packed in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._arrived.extend(array("i", packed[: len(packed) - len(packed) % _DESCRIPTOR]))
        if cut and len(self._arrived) == count:
            # This process has no descriptor free. Only the call that it belonged to fails.
            self._arrived.append(-1)

    def _check_arrived(self) -> None:
        """A read ends with the descriptor's frame, so one at most waits, for its frame to be whole."""
        left = self._end - self._start
        head = int.from_bytes(self._view[self._start : self._start + HEADER], "little")
        announced = left > 0 and (left < HEADER or head & WITH_BLOB)
        if len(self._arrived) > bool(announced):
            self._finish("a descriptor that no frame has announced")

    def _deliver(self) -> None:
        while self._reading and self._end - self._start >= HEADER:
            (head,) = _read_head(self._buffer, self._start)
            size = head & ~_FLAGS
            if size > self._longest_frame:
                self._finish(f"a frame of {size:,} bytes is over the limit of {self._longest_frame:,}")
                return
            begin = self._start + HEADER
            if self._end < begin + size:
                return
            data = bytes(self._view[begin : begin + size])
            self._start = begin + size
            if head & _FLAGS and (fault := self._fault_of(head, size)):
                self._finish(fault)
                return
            if head & WITH_BLOB:
                self._beside = self._arrived.popleft()
            if head & MORE or self._parts:
                self._parts.append(data)
                self._parts_size += size
                if self._parts_size > self._limit:
                    self._finish(f"a message of over {self._limit:,} bytes")
                    return
                if head & MORE:
                    continue
                data = b"".join(self._parts)
                self._parts.clear()
                self._parts_size = 0
            blob = None
            try:
                if self._beside is not None:
                    blob, data = self._blob(data), data[BLOB_SIZE:]
                message = self._decode(data)
            except (ValueError, RecursionError) as error:  # msgspec's errors, and text that is no UTF-8
                if blob is not None:
                    blob.close()
                self._finish(str(error) if isinstance(error, BlobError) else f"a malformed message: {error}")
                return
            try:
                self._on_message(message, blob)
            except Exception as error:  # noqa: BLE001 (one message's fault must not lose the next ones)
                self._loop.call_exception_handler(
                    {"message": f"handling {type(message).__name__} failed", "exception": error}
                )

    def _fault_of(self, head: int, size: int) -> str:
        """What is wrong with a frame; empty for nothing."""
        if head & MORE and not size:
            return "an empty part of a message"
        if head & WITH_BLOB and self._parts:
            return "a blob inside a message"
        if head & WITH_BLOB and not self._arrived:
            return "a blob whose descriptor did not come"
        return ""

    def _blob(self, data: bytes) -> Blob:
        descriptor, self._beside = self._beside, None
        assert descriptor is not None
        return Blob.received(descriptor, int.from_bytes(data[:BLOB_SIZE], "little"), self._blob_limit)

    def _finish(self, reason: str | None) -> None:
        if self._reading:
            self._reading = False
            self._drop_arrived()
            self._loop.remove_reader(self._sock.fileno())
            self._on_close(reason)

    def _drop_arrived(self) -> None:
        for descriptor in (*self._arrived, -1 if self._beside is None else self._beside):
            if descriptor >= 0:
                os.close(descriptor)
        self._arrived.clear()
        self._beside = None

    def close(self) -> None:
        """Close the socket; ``on_close`` is not called. Safe to repeat."""
        self._reading = False
        self._drop_arrived()
        # Whoever owns a channel is known to it, so both stay until the garbage collector comes. Half a
        # megabyte each would be too much for that where workers come and go.
        self._buffer, self._whole = bytearray(), []
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._parts.clear()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._stop_writing()
            self._sock.close()

    def close_after_fork(self) -> None:
        """In a forked copy of the process: close the descriptor only.

        The loop's own set of watched descriptors is shared with the original, so it is not touched.
        """
        self._reading = self._writable = False
        self._drop_arrived()
        descriptor = self._sock.detach()
        if descriptor >= 0:
            os.close(descriptor)
