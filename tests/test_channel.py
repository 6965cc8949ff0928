"""The channel: what one side sends arrives at the other, whole and in order, however slow that is."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import tracemalloc
import warnings

import pytest

from dspex.wire.frames import MAX_FRAME
from dspex.wire.messages import encode
from tests.channels import MiB, both, drain, framed, message, one, same, sized, turns, until

pytestmark = pytest.mark.anyio


# What is sent arrives


async def test_messages_keep_their_order_in_both_directions() -> None:
    """Answers would overtake one another, or reach the wrong side."""
    sizes = (0, 1, 100, 5 * MiB, 3, 300_000, 0)
    there = [message(number, size) for number, size in enumerate(sizes)]
    back = [message(100 + number, size) for number, size in enumerate(reversed(sizes))]
    with both() as (left, right):
        for one_way, other_way in zip(there, back, strict=True):
            left.send(one_way)
            right.send(other_way)
        await until(lambda: len(left.arrived) == len(back) and len(right.arrived) == len(there))
        assert all(map(same, right.arrived, there))
        assert all(map(same, left.arrived, back))
        assert left.reasons == right.reasons == []


@pytest.mark.parametrize(
    "size", [MAX_FRAME - 1, MAX_FRAME, MAX_FRAME + 1, 2 * MAX_FRAME, 2 * MAX_FRAME + 1, 40 * MiB]
)
async def test_a_message_of_any_size_arrives_whole(size: int) -> None:
    """A message at the border of a frame, or far beyond one, would be cut or lost."""
    with both() as (left, right):
        sent = [message(0), sized(1, size), message(2)]
        for each in sent:
            left.send(each)
        await until(lambda: len(right.arrived) == 3)
        assert all(map(same, right.arrived, sent))


async def test_small_and_large_messages_mix() -> None:
    """A chunk of a large message would be taken for a message, or the other way round."""
    sizes = random.Random(1).choices([0, 7, 500, MAX_FRAME, 3 * MAX_FRAME + 5], [40, 40, 40, 1, 1], k=2000)
    sent = [message(number, size) for number, size in enumerate(sizes)]
    with both() as (left, right):
        for number, each in enumerate(sent):
            left.send(each)
            if number % 100 == 0:
                await turns(1)
        await until(lambda: len(right.arrived) == len(sent))
        assert all(map(same, right.arrived, sent))


async def test_two_sides_that_send_much_at_once_do_not_lock_up() -> None:
    """Reading would wait for writing: both sides would wait for each other for ever."""
    with both() as (left, right):
        for number in range(4):
            left.send(message(number, 10 * MiB))
            right.send(message(number, 10 * MiB))
        await until(lambda: len(left.arrived) == len(right.arrived) == 4)
        assert left.ids == [0, 1, 2, 3]
        assert same(right.arrived[3], message(3, 10 * MiB))


async def test_a_burst_arrives_in_order() -> None:
    """Messages of one turn of the loop would be lost or mixed up."""
    with both() as (left, right):
        for number in range(10_000):
            left.send(message(number))
        await until(lambda: len(right.arrived) == 10_000)
        assert right.ids == list(range(10_000))


async def test_a_writer_that_dribbles_is_understood() -> None:
    """A frame that arrives byte by byte would be misread, or delivered before it is whole."""
    sent = [message(1), message(2, 300), message(3)]
    with one() as (end, bare):
        for each in sent:
            *first, last = framed(encode(each))
            known = len(end.arrived)
            for byte in first:
                bare.send(bytes([byte]))
                await turns(2)
            assert len(end.arrived) == known
            bare.send(bytes([last]))
            await until(lambda known=known: len(end.arrived) == known + 1)  # type: ignore[misc]
        assert all(map(same, end.arrived, sent))


# A side that is slow


async def test_a_slow_reader_makes_it_congested_and_gets_all_in_the_end() -> None:
    """A worker that stands still would be given more and more, or would lose what waits for it."""
    sent = [message(number, MiB) for number in range(16)]
    with one() as (end, bare):
        assert not end.is_congested()
        for each in sent:
            end.send(each)
        await turns()
        assert end.is_congested()
        assert all(map(same, await drain(bare, len(sent)), sent))
        assert not end.is_congested()


async def test_what_waits_takes_no_more_memory_than_was_sent() -> None:
    """A slow worker would cost its supervisor several times what it was sent, or keep it afterwards."""
    sent = [message(number, MiB) for number in range(16)]
    with one() as (end, bare):
        gc.collect()
        tracemalloc.start()
        try:
            for each in sent:
                end.send(each)
            await turns()
            held, peak = tracemalloc.get_traced_memory()
            assert held < 17 * MiB
            assert peak < 19 * MiB  # a message is encoded, then cut into frames
            await drain(bare, len(sent))
            await turns()
            gc.collect()
            assert tracemalloc.get_traced_memory()[0] < MiB
        finally:
            tracemalloc.stop()


async def test_reading_goes_on_while_the_other_side_does_not_read() -> None:
    """Answers of a worker that is busy would not be seen before it takes its next calls."""
    with one() as (end, bare):
        end.send(message(0, 20 * MiB))
        await turns()
        assert end.is_congested()
        bare.send(framed(*(encode(message(number)) for number in range(100))))
        await until(lambda: len(end.arrived) == 100)
        assert end.is_congested()
        assert end.reasons == []


async def test_flushed_waits_until_the_kernel_has_all() -> None:
    """A worker that exits after its last answer would lose it."""
    with one() as (end, bare):
        await asyncio.wait_for(end.channel.flushed(), 1)
        end.send(message(0, 8 * MiB))
        flushed = asyncio.ensure_future(end.channel.flushed())
        await turns(20)
        assert not flushed.done()
        await drain(bare, 1)
        await asyncio.wait_for(flushed, 5)

        end.send(message(1, 8 * MiB))
        flushed = asyncio.ensure_future(end.channel.flushed())
        await turns()
        bare.close()
        await asyncio.wait_for(flushed, 5)  # the other side is gone: nothing is left to wait for


# A copy of the process


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


async def test_closing_in_a_fork_does_not_disturb_the_parent() -> None:
    """A caller that forks (gunicorn, multiprocessing) would cut off the workers of the original."""
    with both() as (left, right):
        left.send(message(1))
        await until(lambda: right.arrived)
        descriptors = [end.channel._sock.fileno() for end in (left, right)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads that pytest-xdist has
            child = os.fork()
        if child == 0:
            status = 100
            try:
                for end in (left, right):
                    end.channel.close_after_fork()
                status = sum(map(is_open, descriptors))
                left.send(message(2))
                right.channel.read_to_end()
                for end in (left, right):
                    end.channel.close()
            finally:
                os._exit(status)
        _, ended = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(ended) == 0
        for number in range(3, 6):
            left.send(message(number, MiB))
            right.send(message(number, MiB))
        await until(lambda: len(right.arrived) == 4 and len(left.arrived) == 3)
        assert right.ids == [1, 3, 4, 5]
        assert left.reasons == right.reasons == []
