"""Blobs: memory that nobody can change any more, closed once, whatever becomes of its call."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import resource
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.msgpack import Ext

from dspex.wire import blobs, payloads, pieces
from dspex.wire.blobs import Blob, BlobError
from dspex.wire.codes import pack, unpack
from dspex.wire.values import WireError, encode
from tests.descriptors import descriptors, leave_free, memories, refuse_memfd
from tests.fresh import fresh
from tests.large import file, sealed, unsealed

MiB = 1024 * 1024


def content(blob: Blob) -> bytes:
    with blob.mapped() as view:
        return bytes(view)


# One blob


def test_a_blob_is_what_was_put_into_it_and_cannot_be_changed() -> None:
    """Another process could change a value while it is being read, or cut it and crash the reader."""
    blob = Blob.of([b"one", b"", b"two", b"x" * 3 * MiB])
    assert blob.size == 6 + 3 * MiB
    assert content(blob) == b"onetwo" + b"x" * 3 * MiB
    for change in (
        lambda: os.pwrite(blob.fileno(), b"!", 0),
        lambda: os.ftruncate(blob.fileno(), 3),
        lambda: os.ftruncate(blob.fileno(), 4 * MiB),
        lambda: fcntl.fcntl(blob.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
    ):
        with pytest.raises(PermissionError):
            change()
    assert not os.get_inheritable(blob.fileno())


def test_a_blob_is_closed_once() -> None:
    """A second close would hit whatever got the same number meanwhile: a socket, somebody's file."""
    before = descriptors()
    blob = Blob.of([b"x"])
    number = blob.fileno()
    blob.close()
    reader, writer = os.pipe()
    assert number in {reader, writer}
    blob.close()
    del blob
    gc.collect()
    os.write(writer, b"still open")
    os.close(reader)
    os.close(writer)
    assert descriptors() == before


def test_a_blob_that_is_dropped_is_closed() -> None:
    """Every call that ends in a way nobody foresaw would leave a descriptor and its memory behind."""
    before = descriptors()
    for _ in range(50):
        Blob.of([b"x"]).copy()
    assert descriptors() == before


def test_a_copy_outlives_the_original() -> None:
    """A call that is run again would find its arguments gone with the worker that had them first."""
    blob = Blob.of([b"same"])
    copy = blob.copy()
    blob.close()
    assert blob.lost
    assert content(copy) == b"same"
    with pytest.raises(OSError, match="descriptor"):
        blob.fileno()
    with pytest.raises(OSError, match="descriptor"):
        blob.copy()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_does_not_keep_the_memory() -> None:
    """A forked server process would hold every large value that was on its way when it was forked."""
    blob = Blob.of([b"mine"])
    child = os.fork()
    if child == 0:
        os._exit(memories() * 2 + (not blob.lost))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert content(blob) == b"mine"


@pytest.mark.parametrize(
    ("make", "size", "reason"),
    [
        (unsealed, 100, "not sealed"),
        (file, 100, "no memfd"),
        (lambda: sealed(1), 2, "1 bytes that was announced as 2"),
        (lambda: sealed(0), 0, "0 bytes"),
        (lambda: sealed(1001), 1001, "over the limit of 1,000"),
    ],
)
def test_what_is_no_blob_is_refused_and_closed(make: Callable[[], int], size: int, reason: str) -> None:
    """A worker could have its supervisor map a file, or memory that changes under it."""
    before = descriptors()
    with pytest.raises(BlobError, match=reason):
        Blob.received(make(), size, 1000)
    assert descriptors() == before


# Payloads


def test_what_is_decoded_from_a_mapping_stays_when_it_is_gone() -> None:
    """A value would be a view of memory that is unmapped: reading it later would crash the process."""
    value = {
        "bytes": os.urandom(MiB),
        "text": "ü" * MiB,
        "array": np.arange(MiB // 4, dtype="i4").reshape(512, -1),
        "fortran": np.asfortranarray(np.ones((300, 400))),
        "nested": [(b"a" * MiB, {"set": {1, 2}})],
    }
    parts, types = encode(value)
    before = memories()
    stored = payloads.store(parts)
    assert isinstance(stored, Blob)
    found = payloads.take(stored, types)
    assert stored.lost
    assert memories() == before
    assert found["bytes"] == value["bytes"]
    assert found["text"] == value["text"]
    assert found["nested"] == value["nested"]
    for name in ("array", "fortran"):
        assert (found[name] == value[name]).all()
        assert found[name].flags.owndata
        found[name][0, 0] = 7


def test_malformed_bytes_in_a_blob_leave_nothing_open() -> None:
    """Each answer that cannot be read would cost its memory until somebody drops the error."""
    before = memories()
    with pytest.raises(WireError) as caught:
        payloads.take(Blob.of([b"\x92" + pack(Ext(99, b"x" * MiB))]))
    assert memories() == before
    del caught
    gc.collect()
    with pytest.raises(WireError, match="no descriptor was free"):
        payloads.take(Blob.received(-1, 100, 1000))


def test_what_is_small_stays_in_the_message() -> None:
    """Each small call would pay for a descriptor."""
    assert payloads.store([b"x" * (payloads.THRESHOLD - 1)]) == b"x" * (payloads.THRESHOLD - 1)
    stored = payloads.store([b"x" * 100, b"y" * (payloads.THRESHOLD - 100)])
    assert isinstance(stored, Blob)
    assert stored.size == payloads.THRESHOLD
    payloads.discard(stored)
    assert stored.lost


_trees = st.recursive(
    st.none() | st.integers(-5, 5) | st.binary(max_size=9) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(_trees, st.integers(0, 8))
def test_pieces_make_the_same_value(tree: Any, large: int) -> None:
    """A value with something large in it would arrive as another value."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "LARGE", large)
        found = pieces.pack_in_pieces(tree)
    assert unpack(b"".join(found)) == tree


def test_large_bytes_are_not_copied_before_they_are_stored() -> None:
    """A caller would hold each large value three times."""
    data, array = b"x" * MiB, np.zeros(MiB, "u1")
    found, _ = encode({"outputs": {"one": data, "two": [array, data]}})
    assert sum(part is data for part in found) == 2
    assert sum(map(len, found)) < 3 * MiB + 200


# Where there is no room for a blob


def _without_memfd() -> list[object]:
    import dspex

    refuse_memfd(errno.EPERM)
    options = {"general": dspex.PoolOptions(workers=1)}
    limits = dspex.Settings(allow_modules=["tests.large"], max_payload=4 * MiB, max_result=3 * MiB)
    with dspex.Runtime(pools=options, settings=limits) as runtime:
        pool = runtime.pool()
        value = os.urandom(2 * MiB)
        found: list[object] = [blobs.available(), pool.execute("echo", {"value": value}) == {"value": value}]
        found.append(pool.execute("large.size", {"value": value}))
        found.append(len(pool.execute("large.make", {"size": 2 * MiB})))
        for command, args in (
            ("echo", {"value": value + value}),
            ("echo", {"value": value + value[:MiB]}),
            ("large.make", {"size": 3 * MiB}),
        ):
            try:
                pool.execute(command, args)
            except dspex.DspexError as error:
                found.append(error.code)
        found.append(pool.execute("ping"))
    return found


def test_without_memfd_everything_goes_through_the_channel() -> None:
    """In a sandbox that refuses memfd, a large value would fail, or end its worker."""
    assert fresh(_without_memfd) == [
        False,
        True,
        2 * MiB,
        2 * MiB,
        "payload_too_large",
        "result_too_large",
        "result_too_large",
        "pong",
    ]


def _without_descriptors() -> list[bool]:
    data = b"x" * MiB
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    leave_free(0)
    found = [payloads.store([data, b"y"]) == data + b"y", blobs.available()]
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    return [*found, isinstance(payloads.store([data]), Blob), blobs.available()]


def test_without_a_free_descriptor_a_value_goes_through_the_channel() -> None:
    """Large calls would fail for want of one descriptor, or go the slow way for ever after."""
    assert fresh(_without_descriptors) == [True, False, True, True]
