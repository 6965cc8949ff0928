"""Packets: a message and the descriptors beside it arrive together, or none of them stays open."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from dspex.wire import packets
from dspex.wire.messages import (
    Boot,
    BootFailed,
    Exited,
    Fork,
    Forked,
    WorkerOptions,
    read_by_zygote,
    read_from_zygote,
)

FORK = Fork(7, WorkerOptions(slots=64, allow_modules=["shop"], max_payload=1024, max_result=1024))

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = packets.pair()
    with left, right:
        yield left, right


@contextlib.contextmanager
def pipes(count: int) -> Iterator[list[tuple[int, int]]]:
    made = [os.pipe() for _ in range(count)]
    try:
        yield made
    finally:
        for ends in made:
            for end in ends:
                os.close(end)


def open_descriptors() -> dict[str, str]:
    """What this process has open, the listing of it left out."""
    found: dict[str, str] = {}
    for entry in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):
            found[entry.name] = str(entry.readlink())
    return found


def test_descriptors_arrive_usable_and_are_not_inherited(pair: Pair) -> None:
    """A worker would get no channel, or every program that it starts would hold its channel open."""
    left, right = pair
    with pipes(4) as made:
        packets.send(left, FORK, [writer for _, writer in made])
        message, descriptors = packets.receive(right, read_by_zygote)
        assert message == FORK
        assert len(descriptors) == 4
        assert not set(descriptors) & {end for ends in made for end in ends}
        for number, (descriptor, (reader, _)) in enumerate(zip(descriptors, made, strict=True)):
            assert fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
            os.write(descriptor, b"%d" % number)
            os.close(descriptor)
            assert os.read(reader, 10) == b"%d" % number


def test_messages_stay_apart_and_keep_their_own_descriptors(pair: Pair) -> None:
    """One worker's lifeline would be handed to another."""
    left, right = pair
    with pipes(1) as [(_, writer)]:
        packets.send(left, Forked(1, 10))
        packets.send(left, Forked(2, 20), [writer])
        packets.send(left, Exited(1, -9))
        packets.send(left, Exited(2, None))
        received = [packets.receive(right, read_from_zygote) for _ in range(4)]
        assert [message for message, _ in received] == [
            Forked(1, 10),
            Forked(2, 20),
            Exited(1, -9),
            Exited(2, None),
        ]
        assert [len(descriptors) for _, descriptors in received] == [0, 1, 0, 0]
        os.close(received[1][1][0])


def test_both_directions_are_independent(pair: Pair) -> None:
    """An answer would be read by the side that gave it."""
    left, right = pair
    packets.send(left, FORK)
    packets.send(right, BootFailed("no DSPy", ["mlflow"]))
    assert packets.receive(right, read_by_zygote) == (FORK, [])
    assert packets.receive(left, read_from_zygote) == (BootFailed("no DSPy", ["mlflow"]), [])


@pytest.mark.parametrize(
    "packet",
    [
        b"\xc1",
        b"\x00",
        msgspec.msgpack.encode(["fork", "seven", None]),
        msgspec.msgpack.encode(["mystery"]),
        msgspec.msgpack.Encoder().encode(Exited(1, 0)),
        msgspec.msgpack.encode(FORK)[:-2],
        b"\x93\xa2\xff\xfe\x01\x02",
        b"\x95\xa4boot\x01\x91\xa2\xff\xfe\xa1/\x90",
    ],
    ids=lambda packet: repr(packet[:12]),
)
def test_a_malformed_packet_closes_its_descriptors(pair: Pair, packet: bytes) -> None:
    """A zygote that is broken would use up its supervisor's descriptors, or raise what nobody expects."""
    left, right = pair
    with pipes(2) as made:
        before = open_descriptors()
        socket.send_fds(left, [packet], [writer for _, writer in made])
        with pytest.raises(msgspec.DecodeError):
            packets.receive(right, read_by_zygote)
        assert open_descriptors() == before
        packets.send(left, FORK)
        assert packets.receive(right, read_by_zygote) == (FORK, [])


def test_the_end_is_none(pair: Pair) -> None:
    """A zygote would not notice that its supervisor is gone."""
    left, right = pair
    packets.send(left, FORK)
    left.close()
    assert packets.receive(right, read_by_zygote) == (FORK, [])
    assert packets.receive(right, read_by_zygote) == (None, [])
    assert packets.receive(right, read_by_zygote) == (None, [])


def test_nothing_to_receive_is_no_end(pair: Pair) -> None:
    """A supervisor that looks too early would take its zygote for dead."""
    _, right = pair
    right.setblocking(False)
    with pytest.raises(BlockingIOError):
        packets.receive(right, read_by_zygote)


def test_sending_to_a_side_that_is_gone_is_an_os_error(pair: Pair) -> None:
    """A fork that is asked of a dead zygote would wait for ever."""
    left, right = pair
    right.close()
    with pytest.raises(OSError):
        packets.send(left, FORK)


def test_a_long_import_path_fits(pair: Pair) -> None:
    """A caller with a large `sys.path` could not start a worker."""
    left, right = pair
    boot = Boot(1, [f"/opt/packages/{number:04}/lib/python/site-packages" for number in range(2000)], "/", [])
    packets.send(left, boot)
    assert packets.receive(right, read_by_zygote) == (boot, [])


def test_a_packet_over_the_limit_is_malformed(pair: Pair) -> None:
    """A message that was cut by the kernel would be taken for a whole one."""
    left, right = pair
    boot = Boot(1, ["x" * 1000] * 150, "/", [])
    packets.send(left, boot)
    with pytest.raises(msgspec.DecodeError):
        packets.receive(right, read_by_zygote)
