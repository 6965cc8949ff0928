"""Descriptors on the channel: each comes with the message that announced it, and none is left open."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.wire.blobs import Blob
from dspex.wire.frames import MAX_FRAME, WITH_BLOB
from dspex.wire.messages import FromWorker, encode
from tests.channels import GOOD, MORE, End, both, framed, message, one, same, turns, until
from tests.descriptors import descriptors, leave_free, memories
from tests.fresh import fresh
from tests.large import sealed

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _flat() -> Iterator[None]:
    """Whatever a test does, no blob is left open."""
    yield
    assert memories() == 0


def content(blob: Blob | None) -> bytes:
    assert blob is not None
    with blob.mapped() as view:
        found = bytes(view)
    blob.close()
    return found


# What is sent arrives


async def test_blobs_arrive_with_their_messages() -> None:
    """A call would run on another's arguments."""
    with both() as (left, right):
        for number in range(300):
            blob = Blob.of([b"%d" % number, b"x" * number]) if number % 3 == 0 else None
            left.send(message(number, random.Random(number).choice([0, 10, 300_000])), blob)
            if number % 7 == 0:
                await turns(1)
        await until(lambda: len(right.arrived) == 300)
        assert right.ids == list(range(300))
        for number, blob in enumerate(right.blobs):
            assert (blob is not None) == (number % 3 == 0)
            if blob is not None:
                assert content(blob) == b"%d" % number + b"x" * number
        assert memories() == 0  # the sender has closed its own
        assert left.reasons == right.reasons == []


async def test_blobs_pass_both_ways_at_once() -> None:
    """Two sides that send blobs at once would wait for each other."""
    with both() as (left, right):
        for number in range(100):
            left.send(message(number), Blob.of([b"l%d" % number]))
            right.send(message(number), Blob.of([b"r%d" % number]))
        await until(lambda: len(left.arrived) == len(right.arrived) == 100)
        assert [content(blob) for blob in right.blobs] == [b"l%d" % number for number in range(100)]
        assert [content(blob) for blob in left.blobs] == [b"r%d" % number for number in range(100)]


async def test_a_blob_is_passed_on_without_being_read() -> None:
    """An echo of 64 MiB would copy them in the worker."""
    with both() as (left, right):
        left.send(message(1), Blob.of([b"there and back"]))
        await until(lambda: right.arrived)
        right.send(message(1), right.blobs.pop())
        await until(lambda: left.arrived)
        assert content(left.blobs[0]) == b"there and back"


async def test_a_side_that_does_not_read_gets_all_blobs_in_the_end() -> None:
    """A worker that stands still would lose the arguments that wait for it."""
    left, right = socket.socketpair()
    sender = End(left)
    for number in range(50):
        sender.send(message(number, MAX_FRAME // 2), Blob.of([b"%d" % number]))
    await turns()
    assert sender.is_congested()
    receiver = End(right)
    await until(lambda: len(receiver.arrived) == 50)
    assert [content(blob) for blob in receiver.blobs] == [b"%d" % number for number in range(50)]
    sender.channel.close()
    receiver.channel.close()


_kinds = st.tuples(st.sampled_from([0, 5, 1000, MAX_FRAME + 5]), st.booleans())


@settings(max_examples=60, deadline=None)
@given(st.lists(_kinds, min_size=1, max_size=12), st.integers(0, 1000))
def test_a_writer_that_dribbles_is_understood(sent: list[tuple[int, bool]], seed: int) -> None:
    """A descriptor would be given to the neighbour of its message when the kernel splits or joins writes."""
    chance = random.Random(seed)

    async def feed() -> tuple[End, list[FromWorker]]:
        wanted = [message(number, size) for number, (size, _) in enumerate(sent)]
        loop = asyncio.get_running_loop()
        with one() as (end, bare):
            for number, (each, (_, with_blob)) in enumerate(zip(wanted, sent, strict=True)):
                data = b"".join(_frames(each, 4 + number if with_blob else None))
                descriptor = sealed(4 + number) if with_blob else None
                while data:
                    count = chance.choice([1, 3, 100, len(data)])
                    part, data = data[:count], data[count:]
                    if descriptor is not None:
                        socket.send_fds(bare, [part[:1]], [descriptor])
                        os.close(descriptor)
                        descriptor, part = None, part[1:]
                    await loop.sock_sendall(bare, part)
                    if chance.random() < 0.2:
                        await turns(2)
            await until(lambda: len(end.arrived) == len(wanted) or end.reasons)
        return end, list(wanted)

    end, wanted = asyncio.run(feed())
    assert end.reasons == []
    assert all(map(same, end.arrived, wanted))
    for number, (blob, (_, with_blob)) in enumerate(zip(end.blobs, sent, strict=True)):
        assert (blob is not None) == with_blob
        if blob is not None:
            assert len(content(blob)) == 4 + number


def _frames(each: FromWorker, size: int | None) -> list[bytes]:
    """A message with a blob of this size beside it, as the wire has it."""
    body = encode(each) if size is None else size.to_bytes(8, "little") + encode(each)
    parts = [body[start : start + MAX_FRAME] for start in range(0, len(body), MAX_FRAME)]
    found = [framed(*parts[:-1], more=True), framed(parts[-1])]
    if size is not None:
        first = found[0] or found.pop()
        head = int.from_bytes(first[:4], "little") | WITH_BLOB
        found = [head.to_bytes(4, "little") + first[4:], *found[1:]]
    return found


# What is malformed

ANNOUNCED = b"".join(_frames(message(2), 100))
BAD = {
    "announced, and missing": ([], ANNOUNCED, "did not come"),
    "not announced": ([100], GOOD, "no frame has announced"),
    "two for one frame": ([100, 100], ANNOUNCED, "no frame has announced"),
    "more than fit": ([100] * 20, ANNOUNCED, "no frame has announced"),
    "announced inside a message": (
        [100],
        framed(b"abc", more=True) + ANNOUNCED,
        "inside a message",
    ),
    "of another size": ([99], ANNOUNCED, "announced as 100"),
    "garbage beside it": ([100], ANNOUNCED[:12] + b"\xc1" * (len(ANNOUNCED) - 12), "malformed"),
    "no room for the size": ([100], (4 | WITH_BLOB).to_bytes(4, "little") + b"abcd", "over the limit"),
    "nothing in the frame": ([100], (0 | WITH_BLOB).to_bytes(4, "little"), "announced as 0"),
    "empty parts": ([100], (0 | WITH_BLOB | MORE).to_bytes(4, "little"), "empty part"),
    "cut off": ([100], ANNOUNCED[:20], "in the middle"),
    "cut off in the header": ([100], ANNOUNCED[:2], "in the middle"),
}


@pytest.mark.parametrize("bad", BAD)
async def test_malformed_blobs_end_the_channel_with_a_reason(bad: str) -> None:
    """A broken worker would have its supervisor collect descriptors until it has none left."""
    sizes, data, reason = BAD[bad]
    before = descriptors()
    with one() as (end, bare):
        sent = [sealed(size) for size in sizes]
        bare.send(GOOD)
        socket.send_fds(bare, [data], sent) if sent else bare.send(data)
        for descriptor in sent:
            os.close(descriptor)
        await turns()
        bare.close()
        await until(lambda: end.reasons)
        assert len(end.reasons) == 1
        assert reason in str(end.reasons[0])
        assert end.ids[0] == 1
        for blob in filter(None, end.blobs):
            blob.close()
    assert descriptors() == before


async def test_a_blob_over_the_limit_is_refused() -> None:
    """A broken worker could make its caller map more than the settings allow."""
    left, right = socket.socketpair()
    sender, receiver = End(left), End(right, blob_limit=1000)
    sender.send(message(1), Blob.of([b"x" * 1000]))
    sender.send(message(2), Blob.of([b"x" * 1001]))
    await until(lambda: receiver.reasons)
    assert receiver.ids == [1]
    assert "over the limit of 1,000" in str(receiver.reasons[0])
    assert len(content(receiver.blobs[0])) == 1000
    sender.channel.close()
    receiver.channel.close()


_hostile = st.lists(
    st.tuples(
        st.one_of(
            st.binary(min_size=1, max_size=40),
            st.just(GOOD),
            st.just(ANNOUNCED),
            st.builds(
                lambda size, flag, rest: (size | flag).to_bytes(4, "little") + rest,
                st.integers(0, 30),
                st.sampled_from([0, WITH_BLOB, MORE, WITH_BLOB | MORE]),
                st.binary(min_size=1, max_size=40),
            ),
        ),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=200, deadline=None)
@given(_hostile)
def test_descriptors_among_garbage_are_all_closed(sent: list[tuple[bytes, int]]) -> None:
    """Bytes and descriptors that nobody foresaw would leave descriptors open, or break the loop."""
    raised: list[dict[str, Any]] = []
    before = descriptors()

    async def feed() -> End:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
        with one() as (end, bare):
            for data, count in sent:
                beside = [sealed(100) for _ in range(count)]
                socket.send_fds(bare, [data], beside) if beside else bare.send(data)
                for descriptor in beside:
                    os.close(descriptor)
            bare.shutdown(socket.SHUT_WR)
            await until(lambda: end.reasons, 5)
            return end

    end = asyncio.run(feed())
    assert raised == []
    assert len(end.reasons) == 1
    for blob in end.blobs:
        if blob is not None:
            blob.close()
    assert descriptors() == before


# Ends


async def test_blobs_for_a_side_that_is_gone_are_closed() -> None:
    """Each death of a worker would cost the memory of what was on its way to it."""
    with one() as (end, bare):
        for number in range(20):
            end.send(message(number, MAX_FRAME // 2), Blob.of([b"x"]))
        await turns()
        assert memories() > 0
        bare.close()
        await until(lambda: end.reasons)
        end.send(message(99), Blob.of([b"x"]))
        await turns()
        assert memories() == 0


async def test_closing_with_blobs_on_both_sides_closes_them() -> None:
    """A pool that is closed under load would leave memory behind in a process that lives on."""
    with one() as (end, bare):
        for number in range(20):
            end.send(message(number, MAX_FRAME // 2), Blob.of([b"x"]))
        descriptor = sealed(100)
        socket.send_fds(bare, [ANNOUNCED[:20]], [descriptor])
        os.close(descriptor)
        await turns()
        end.channel.close()
        assert memories() == 0
        assert end.reasons == []


async def test_a_message_that_is_refused_closes_its_blob() -> None:
    """A call that is too large would keep its arguments in memory."""
    with both(limit=1000) as (left, _), pytest.raises(Exception, match="over the limit"):
        left.send(message(1, 2000), Blob.of([b"x"]))
    assert memories() == 0


async def test_a_failing_receiver_leaves_no_blob_open() -> None:
    """A message that cannot be handled would keep its blob for ever."""

    def fail(_: FromWorker) -> None:
        raise LookupError("nobody asked")

    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda *_: None)
    try:
        with one(then=fail) as (end, bare):
            descriptor = sealed(100)
            socket.send_fds(bare, [ANNOUNCED + GOOD], [descriptor])
            os.close(descriptor)
            await until(lambda: len(end.arrived) == 2)
            end.blobs.clear()
            await turns()
            assert memories() == 0
    finally:
        loop.set_exception_handler(before)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_a_fork_closes_what_was_on_its_way() -> None:
    """A forked server process would keep large values that waited in the channel."""
    with one() as (end, bare):
        for number in range(20):
            end.send(message(number, MAX_FRAME // 2), Blob.of([b"x"]))
        descriptor = sealed(100)
        socket.send_fds(bare, [ANNOUNCED[:20]], [descriptor])
        os.close(descriptor)
        await turns()
        held = memories()
        child = os.fork()
        if child == 0:
            end.channel.close_after_fork()
            os._exit(memories())
        _, ended = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(ended) == 0
        assert memories() == held


# Where there are too few descriptors


def _receiver_is_full() -> list[object]:
    async def feed() -> list[object]:
        with both() as (left, right):
            left.send(message(0))
            await until(lambda: right.arrived)
            left.send(message(1), Blob.of([b"first"]))
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            leave_free(0)
            await until(lambda: len(right.arrived) == 2)
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            left.send(message(2), Blob.of([b"second"]))
            await until(lambda: len(right.arrived) == 3)
            first, second = right.blobs[1:]
            assert first is not None
            return [first.lost, first.size, content(second).decode(), right.reasons]

    return asyncio.run(feed())


def test_without_a_free_descriptor_only_that_message_loses_its_blob() -> None:
    """One process with too many files open would end the worker, and its neighbours' calls."""
    assert fresh(_receiver_is_full) == [True, 5, "second", []]


def _too_many_on_their_way() -> list[object]:
    async def feed() -> list[object]:
        left, right = socket.socketpair()
        sender = End(left)
        if os.getuid() == 0:
            os.setresuid(65534, 65534, 65534)  # to root the limit does not apply
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        refused = 0
        for number in range(60):
            sender.send(message(number), Blob.of([b"%d" % number]))
            await turns(2)
            refused += sender.channel._pause is not None
        found: list[bytes] = []
        receiver = End(right, then=lambda _: found.append(content(receiver.blobs.pop())))
        await until(lambda: len(found) == 60)
        whole = found == [b"%d" % number for number in range(60)]
        return [refused > 0, whole, sender.reasons, receiver.reasons]

    return asyncio.run(feed())


def test_too_many_descriptors_on_their_way_are_waited_for() -> None:
    """A worker that is slow to read would lose calls once the kernel takes no more descriptors."""
    assert fresh(_too_many_on_their_way) == [True, True, [], []]
