"""Both ends of a channel, and one end beside a bare socket, for the tests of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
from typing import TYPE_CHECKING, Any

import msgspec

from dspex.wire.blobs import Blob
from dspex.wire.channel import Channel
from dspex.wire.frames import MAX_FRAME
from dspex.wire.messages import FromWorker, Result, encode, read_from_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MiB = 1024 * 1024
LIMIT = 64 * MiB
MORE = 1 << 31
# Random once: the content of a large message is a slice of it.
NOISE = random.Random(0).randbytes(MiB)


def message(number: int, size: int = 0) -> Result:
    """A message whose payload has this size and depends on its number."""
    noise = itertools.islice(itertools.cycle([NOISE[number % 1000 :]]), 1 + size // (MiB - 1000))
    return Result(number, msgspec.Raw(msgspec.msgpack.encode(b"".join(noise)[:size])))


def sized(number: int, size: int) -> Result:
    """A message that takes exactly this many bytes."""
    overhead = len(encode(message(number, MiB))) - MiB
    made = message(number, size - overhead)
    assert len(encode(made)) == size
    return made


def same(one: FromWorker, other: FromWorker) -> bool:
    return encode(one) == encode(other)


def framed(*bodies: bytes, more: bool = False) -> bytes:
    return b"".join((len(body) | more * MORE).to_bytes(4, "little") + body for body in bodies)


GOOD = framed(encode(message(1)))


class End:
    """One end of a channel, and what happened at it."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        limit: int = LIMIT,
        blob_limit: int = LIMIT,
        then: Callable[[FromWorker], None] | None = None,
    ) -> None:
        self.arrived: list[FromWorker] = []
        self.blobs: list[Blob | None] = []
        self.reasons: list[str | None] = []
        self._then = then
        self.channel: Channel[FromWorker] = Channel(
            sock,
            read_from_worker,
            on_message=self._take,
            on_close=self.reasons.append,
            limit=limit,
            blob_limit=blob_limit,
        )
        self.send = self.channel.send

    @property
    def ids(self) -> list[int]:
        """The numbers of the results that arrived."""
        return [arrived.id for arrived in self.arrived if isinstance(arrived, Result)]

    def is_congested(self) -> bool:
        """A method, for mypy believes that an attribute stays as it was."""
        return self.channel.congested

    def _take(self, arrived: FromWorker, blob: Blob | None) -> None:
        self.arrived.append(arrived)
        self.blobs.append(blob)
        if self._then is not None:
            self._then(arrived)


@contextlib.contextmanager
def both(limit: int = LIMIT) -> Iterator[tuple[End, End]]:
    """Two ends of one channel."""
    left, right = (End(sock, limit=limit) for sock in socket.socketpair())
    try:
        yield left, right
    finally:
        left.channel.close()
        right.channel.close()


@contextlib.contextmanager
def one(
    *, limit: int = LIMIT, then: Callable[[FromWorker], None] | None = None
) -> Iterator[tuple[End, socket.socket]]:
    """One end, and the bare socket of the other side."""
    sock, bare = socket.socketpair()
    bare.setblocking(False)
    end = End(sock, limit=limit, then=then)
    try:
        yield end, bare
    finally:
        end.channel.close()
        bare.close()


async def until(holds: Callable[[], Any], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 (what is waited for sets no event)
            await asyncio.sleep(0.0005)


async def turns(count: int = 5) -> None:
    """Let the loop do all that it can do now."""
    for _ in range(count):
        await asyncio.sleep(0)


async def drain(bare: socket.socket, count: int) -> list[FromWorker]:
    """Read this many messages as a plain reader of the format does."""
    loop = asyncio.get_running_loop()
    data, parts = bytearray(), b""
    found: list[FromWorker] = []
    while len(found) < count:
        chunk = await asyncio.wait_for(loop.sock_recv(bare, MiB), 20)
        assert chunk, "the channel ended early"
        data += chunk
        while len(data) >= 4 and len(data) >= 4 + (size := int.from_bytes(data[:4], "little") & ~MORE):
            assert size <= MAX_FRAME
            parts += data[4 : 4 + size]
            if not int.from_bytes(data[:4], "little") & MORE:
                found.append(read_from_worker(parts))
                parts = b""
            del data[: 4 + size]
    assert not data
    return found
