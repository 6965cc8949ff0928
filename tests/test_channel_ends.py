"""The channel's limits and ends: whatever arrives or breaks, it says so once, and nothing else breaks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.errors import PayloadTooLarge
from dspex.wire.frames import MAX_FRAME
from dspex.wire.messages import Cancel, Fault, FromWorker, Result, encode
from tests.channels import GOOD, End, MiB, both, framed, message, one, same, sized, turns, until

pytestmark = pytest.mark.anyio


# Limits


async def test_a_message_over_the_limit_is_refused_and_the_channel_goes_on() -> None:
    """One call that is too large would end the worker, and its neighbours with it."""
    with both(limit=MiB) as (left, right):
        left.send(sized(1, MiB))
        with pytest.raises(PayloadTooLarge, match="1,048,577 bytes") as refused:
            left.send(sized(2, MiB + 1))
        assert refused.value.details == {"size": MiB + 1, "limit": MiB}
        left.send(message(3))
        await until(lambda: len(right.arrived) == 2)
        assert right.ids == [1, 3]


async def test_a_limit_below_a_frame_holds() -> None:
    """`Settings(max_payload=...)` under 256 KiB would be no limit at all."""
    with both(limit=1000) as (left, right):
        with pytest.raises(PayloadTooLarge):
            left.send(message(1, 1001))
        left.send(message(2, 10))
        await until(lambda: len(right.arrived) == 1)


@pytest.mark.parametrize("limit", [1000, MiB])
async def test_the_limit_holds_for_what_arrives(limit: int) -> None:
    """A broken worker could fill the memory of its supervisor."""
    body = encode(message(1, limit))
    parts = [body[start : start + MAX_FRAME] for start in range(0, len(body), MAX_FRAME)]
    with one(limit=limit) as (end, bare):
        sending = asyncio.get_running_loop().sock_sendall(
            bare, framed(*parts[:-1], more=True) + framed(parts[-1])
        )
        await asyncio.wait_for(sending, 5)
        await until(lambda: end.reasons or end.arrived)
        assert end.arrived == []
        assert end.reasons[0] is not None
        assert f"{limit:,}" in end.reasons[0]


async def test_empty_parts_without_end_are_malformed() -> None:
    """A broken worker could fill the memory of its supervisor with parts of size nothing."""
    with one() as (end, bare):
        with contextlib.suppress(OSError):
            await asyncio.wait_for(
                asyncio.get_running_loop().sock_sendall(bare, framed(b"", more=True) * 50_000), 5
            )
        await turns(50)
        assert len(end.reasons) == 1


# What is malformed

BAD = {
    "frame over the limit": (MAX_FRAME + 1).to_bytes(4, "little") + b"x" * 100,
    "no MessagePack": framed(b"\xc1\xc1"),
    "empty frame": framed(b""),
    "half a MessagePack": framed(encode(message(1, 50))[:-3]),
    "a byte too many": framed(encode(message(1)) + b"\x00"),
    "message of another direction": framed(encode(Cancel(1))),
    "unknown message": framed(msgspec.msgpack.encode(["mystery", 1])),
    "field of another type": framed(msgspec.msgpack.encode(["result", "one", None])),
    "text that is no UTF-8": framed(b"\x93\xa5fault\x01\x81\xa4code\xa2\xff\xfe"),
    "tag that is no UTF-8": framed(b"\x93\xa2\xff\xfe\x01\x02"),
    "nested without end": framed(b"\x93\xa5fault\x01\x81\xa1a" + b"\x91" * 100_000),
    "huge list announced": framed(b"\x93\xa5fault\x01\x81\xa1a\xdd\xff\xff\xff\xff"),
}


@pytest.mark.parametrize("bad", BAD)
async def test_malformed_data_end_the_channel_with_a_reason(bad: str) -> None:
    """A broken worker would raise in the supervisor's loop, or go on being read out of step."""
    with one() as (end, bare):
        bare.send(GOOD + BAD[bad] + GOOD)
        await until(lambda: end.reasons)
        bare.send(GOOD)
        bare.close()
        await turns(20)
        assert len(end.arrived) == 1
        assert len(end.reasons) == 1
        assert end.reasons[0]
        end.channel.read_to_end()
        assert len(end.reasons) == 1


@pytest.mark.parametrize(
    "cut", [GOOD[:2], GOOD[:4], GOOD[:-1], framed(b"abc", more=True), framed(b"abc", more=True) + b"\x01"]
)
async def test_an_end_inside_a_message_has_a_reason(cut: bytes) -> None:
    """A worker that died while it wrote would look like one that ended well."""
    with one() as (end, bare):
        bare.send(GOOD + cut)
        bare.close()
        await until(lambda: end.reasons)
        assert len(end.arrived) == 1
        assert end.reasons == ["the channel ended in the middle of a message"]


def _mutated(position: int, replacement: bytes) -> bytes:
    body = encode(Fault(1, {"code": "lm_auth", "message": "né", "details": {"a": [1, None, 2.5]}}))
    at = position % len(body)
    return framed(body[:at] + replacement + body[at + len(replacement) :])


_garbage = st.one_of(
    st.binary(max_size=300),
    st.lists(st.binary(max_size=40).map(framed), max_size=5).map(b"".join),
    st.lists(st.builds(framed, st.binary(max_size=40), more=st.booleans()), max_size=5).map(b"".join),
    st.builds(_mutated, st.integers(0, 200), st.binary(min_size=1, max_size=3)),
)


@settings(max_examples=300, deadline=None)
@given(_garbage)
def test_garbage_ends_the_channel_once_and_raises_nothing(garbage: bytes) -> None:
    """Bytes that nobody foresaw would leave a call without an answer, or break the supervisor's loop."""
    raised: list[dict[str, Any]] = []

    async def feed() -> End:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
        with one() as (end, bare):
            bare.send(garbage)
            bare.shutdown(socket.SHUT_WR)
            await until(lambda: end.reasons, 5)
            await turns()
            return end

    end = asyncio.run(feed())
    assert raised == []
    assert len(end.reasons) == 1
    assert end.reasons[0] or end.arrived or not garbage


# Ends


async def test_an_end_between_two_messages_has_no_reason() -> None:
    """A worker that was told to stop would count as broken."""
    with both() as (left, right):
        left.send(message(1))
        left.channel.close()
        await until(lambda: right.reasons)
        assert len(right.arrived) == 1
        assert right.reasons == [None]


async def test_an_end_with_our_messages_unread_has_no_reason() -> None:
    """A worker that died of a signal with calls unread would be said to have had a broken channel."""
    with one() as (end, bare):
        end.send(message(1))
        bare.send(GOOD + GOOD)
        bare.close()
        await until(lambda: end.reasons)
        assert len(end.arrived) == 2
        assert end.reasons == [None]


async def test_what_a_dead_side_had_written_is_read_to_the_end() -> None:
    """Results that were finished before a crash would be lost, and their calls run again."""
    sent = [message(number, 10_000) for number in range(15)]
    with one() as (end, bare):
        bare.send(b"".join(framed(encode(each)) for each in sent))
        bare.close()
        assert end.arrived == []
        end.channel.read_to_end()
        assert all(map(same, end.arrived, sent))
        assert len(end.arrived) == len(sent)
        assert end.reasons == [None]
        end.channel.read_to_end()
        assert end.reasons == [None]


async def test_reading_to_the_end_does_not_wait_for_a_side_that_lives() -> None:
    """A grandchild that still holds the socket would stop the supervisor's loop."""
    with one() as (end, bare):
        bare.send(GOOD + GOOD[:3])
        end.channel.read_to_end()
        assert len(end.arrived) == 1
        assert end.reasons == []


@pytest.mark.parametrize("size", [10, MAX_FRAME * 4])
async def test_sending_to_a_side_that_is_gone_raises_nothing(size: int) -> None:
    """A call to a worker that has just died would fail with a broken pipe, and hide what it had answered."""
    with one() as (end, bare):
        bare.send(GOOD * 3)
        bare.close()
        for number in range(3):
            end.send(message(number, size))
        assert not end.is_congested()
        await until(lambda: end.reasons)
        assert len(end.arrived) == 3
        end.send(message(9, size))
        await turns()
        assert end.reasons == [None]


async def test_closing_is_silent_and_may_be_repeated() -> None:
    """A worker that the pool has given up would be reported dead once more."""
    with both() as (left, right):
        left.channel.close()
        left.channel.close()
        left.send(message(1))
        left.channel.read_to_end()
        await asyncio.wait_for(left.channel.flushed(), 1)
        await until(lambda: right.reasons)
        right.channel.close()
        await turns()
        assert left.reasons == []
        assert right.reasons == [None]


async def test_closing_while_messages_are_delivered_stops_them() -> None:
    """A handle that has closed its channel would get messages after its end."""
    with one(then=lambda _: end.channel.close()) as (end, bare):
        bare.send(GOOD * 3)
        await until(lambda: end.arrived)
        await turns()
        assert len(end.arrived) == 1
        assert end.reasons == []


async def test_a_failing_receiver_is_reported_and_loses_no_message() -> None:
    """One message that cannot be handled would lose those behind it, in silence."""

    def fail(arrived: FromWorker) -> None:
        if isinstance(arrived, Result) and arrived.id % 2:
            raise LookupError(f"no call {arrived.id}")

    reported: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    try:
        with one(then=fail) as (end, bare):
            bare.send(framed(*(encode(message(number)) for number in range(4))))
            await until(lambda: len(end.arrived) == 4)
            assert [str(context["exception"]) for context in reported] == ["no call 1", "no call 3"]
            assert all("Result" in context["message"] for context in reported)
            assert end.reasons == []
    finally:
        loop.set_exception_handler(before)
