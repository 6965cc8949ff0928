"""One socket between two processes, carrying framed messages in order, both ways.

A frame is a header of four bytes (31 bits of length, the top bit says that the message goes on in the
next frame) and at most 256 KiB. The first frame of a turn of the loop is written at once, those that
follow in the same turn together; what the kernel does not take is queued, and reading never waits for
writing. Whatever is malformed ends this channel with a reason, and
nothing else.

The reader is ours because asyncio's transports drop descriptors that are passed beside the data, and
because writing at once instead of on the loop's next turn halves the time of a round trip.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Generic, TypeVar

from dspex.errors import PayloadTooLarge
from dspex.wire.messages import Message, encode

MAX_FRAME = 256 * 1024
_HEADER = 4
_MORE = 1 << 31
# Bytes that may wait to be written before the other side counts as slow.
_HIGH_WATER = 4 * MAX_FRAME
# Frames that one system call takes; the kernel's own limit is 1,024.
_VECTORS = 256
# Seconds between two looks of `flushed` at a socket that is full.
_RETRY = 0.002

M = TypeVar("M")


class Channel(Generic[M]):
    """One end of the socket, on the running event loop.

    Args:
        sock: A connected stream socket; the channel owns it from here on.
        decode: Reads the messages that may arrive.
        on_message: Called with each message, in order, on the loop.
        on_close: Called once when nothing more will arrive, with the reason, or with None when the
            other side closed between two messages.
        limit: The largest message in bytes, sent or received.
        on_drained: Called when the other side was slow, and has read most of what waited for it.
    """

    def __init__(
        self,
        sock: socket.socket,
        decode: Callable[[bytes], M],
        *,
        on_message: Callable[[M], None],
        on_close: Callable[[str | None], None],
        limit: int,
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
        self._longest_frame = min(limit, MAX_FRAME)
        self._buffer = bytearray(2 * (MAX_FRAME + _HEADER))
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._parts: list[bytes] = []
        self._parts_size = 0
        self._waiting: deque[bytes | memoryview] = deque()
        self._waiting_size = 0
        self._writable = True
        self._in_burst = False
        self._awaits_kernel = False
        self._reading = True
        self._loop.add_reader(sock.fileno(), self._read_some)

    # Writing

    @property
    def congested(self) -> bool:
        """Whether the other side is slow to read: give it nothing more if there is a choice."""
        return self._waiting_size > _HIGH_WATER

    async def flushed(self) -> None:
        """Wait until the kernel has all that was sent, or the other side is gone."""
        while self._waiting:
            self._write_some()
            await asyncio.sleep(0 if not self._waiting else _RETRY)

    def send(self, message: Message) -> None:
        """Send a message; never waits. What is sent to a side that is gone is dropped.

        Raises:
            PayloadTooLarge: The message is over the limit; nothing was sent.
        """
        data = encode(message)
        size = len(data)
        if size > self._limit:
            raise PayloadTooLarge(
                f"a message of {size:,} bytes is over the limit of {self._limit:,}; send less, or raise "
                "Settings(max_payload=...)",
                details={"size": size, "limit": self._limit},
            )
        if size <= MAX_FRAME:
            self._write(size.to_bytes(_HEADER, "little") + data)
            return
        view = memoryview(data)
        for start in range(0, size, MAX_FRAME):
            part = view[start : start + MAX_FRAME]
            more = _MORE if start + MAX_FRAME < size else 0
            self._write((len(part) | more).to_bytes(_HEADER, "little") + part)

    def _write(self, frame: bytes) -> None:
        """Write at once if this is the first frame of the loop's turn, else together with those before it.

        A lone frame gains from leaving early, a burst from being one system call.
        """
        if not self._writable:
            return
        rest: bytes | memoryview = frame
        if not self._in_burst:
            self._in_burst = True
            self._loop.call_soon(self._end_burst)
            if not self._waiting:
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
        self._waiting.append(rest)
        self._waiting_size += len(rest)

    def _end_burst(self) -> None:
        self._in_burst = False
        if self._waiting and not self._awaits_kernel:
            self._write_some()

    def _write_some(self) -> None:
        was_congested = self.congested
        while self._waiting:
            try:
                sent = self._sock.sendmsg(list(islice(self._waiting, _VECTORS)))
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                self._stop_writing()
                return
            self._take_off(sent)
        if bool(self._waiting) != self._awaits_kernel:
            self._awaits_kernel = not self._awaits_kernel
            if self._awaits_kernel:
                self._loop.add_writer(self._sock.fileno(), self._write_some)
            else:
                self._loop.remove_writer(self._sock.fileno())
        if was_congested and not self.congested and self._on_drained is not None:
            self._on_drained()

    def _take_off(self, sent: int) -> None:
        self._waiting_size -= sent
        while sent:
            first = self._waiting[0]
            if sent < len(first):
                self._waiting[0] = memoryview(first)[sent:]
                return
            sent -= len(first)
            self._waiting.popleft()

    def _stop_writing(self) -> None:
        # The other side is gone. What it had sent before is still to be read, so reading goes on.
        if self._writable:
            self._writable = False
            self._waiting.clear()
            self._waiting_size = 0
            if self._sock.fileno() >= 0:
                self._loop.remove_writer(self._sock.fileno())

    # Reading

    def read_to_end(self) -> None:
        """Deliver all that a process which is dead by now had sent."""
        while self._reading and self._read_some():
            pass

    def _read_some(self) -> bool:
        """Read once and deliver what is whole; False when there was nothing."""
        if len(self._view) - self._end < _HEADER + MAX_FRAME // 2:
            self._view[: self._end - self._start] = self._view[self._start : self._end]
            self._start, self._end = 0, self._end - self._start
        try:
            count = self._sock.recv_into(self._view[self._end :])
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionResetError:
            count = 0  # it is gone, and had not read all that was sent to it
        except OSError as error:
            self._finish(f"the channel broke: {error.strerror}")
            return False
        if count == 0:
            whole = self._start == self._end and not self._parts
            self._finish(None if whole else "the channel ended in the middle of a message")
            return False
        self._end += count
        self._deliver()
        return True

    def _deliver(self) -> None:
        while self._reading and self._end - self._start >= _HEADER:
            head = int.from_bytes(self._view[self._start : self._start + _HEADER], "little")
            size = head & ~_MORE
            if size > self._longest_frame:
                self._finish(f"a frame of {size:,} bytes is over the limit of {self._longest_frame:,}")
                return
            begin = self._start + _HEADER
            if self._end < begin + size:
                return
            data = bytes(self._view[begin : begin + size])
            self._start = begin + size
            if head & _MORE and not size:
                self._finish("an empty part of a message")
                return
            if head & _MORE or self._parts:
                self._parts.append(data)
                self._parts_size += size
                if self._parts_size > self._limit:
                    self._finish(f"a message of over {self._limit:,} bytes")
                    return
                if head & _MORE:
                    continue
                data = b"".join(self._parts)
                self._parts.clear()
                self._parts_size = 0
            try:
                message = self._decode(data)
            except (ValueError, RecursionError) as error:  # msgspec's errors, and text that is no UTF-8
                self._finish(f"a malformed message: {error}")
                return
            try:
                self._on_message(message)
            except Exception as error:  # noqa: BLE001 (one message's fault must not lose the next ones)
                self._loop.call_exception_handler(
                    {"message": f"handling {type(message).__name__} failed", "exception": error}
                )

    def _finish(self, reason: str | None) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._sock.fileno())
            self._on_close(reason)

    def close(self) -> None:
        """Close the socket; ``on_close`` is not called. Safe to repeat."""
        self._reading = False
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._stop_writing()
            self._sock.close()

    def close_after_fork(self) -> None:
        """In a forked copy of the process: close the descriptor only.

        The loop's own set of watched descriptors is shared with the original, so it is not touched.
        """
        self._reading = self._writable = False
        descriptor = self._sock.detach()
        if descriptor >= 0:
            os.close(descriptor)
