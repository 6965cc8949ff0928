"""The server: clients that take their time."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator

import psutil
import pytest

from dspex.server import connection
from tests.http_scene import Scene, serving
from tests.processes import until
from tests.provider import delayed, echo

BODY = json.dumps({"prompt": "hi", "signature": "question -> answer"}).encode()
HEAD = b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def request(body: bytes = BODY) -> bytes:
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with serving(body_timeout=0.5) as scene:
        yield scene


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From when on heads have half a second; connections that are there keep what they have."""
    return lambda: monkeypatch.setattr(connection, "HEAD", 0.5)


@contextlib.contextmanager
def connected(scene: Scene) -> Iterator[socket.socket]:
    url = scene.client.base_url
    with socket.create_connection((url.host, url.port or 80), timeout=60) as opened:
        yield opened


def rest(of: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    came = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := of.recv(65536):
            came += piece
    return came


def one(of: socket.socket) -> bytes:
    """One answer, on a connection that stays open."""
    came = b""
    while b"\r\n\r\n" not in came:
        came += of.recv(65536)
    head, _, body = came.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += of.recv(65536)
    return head


def test_a_head_that_never_ends(scene: Scene, impatient: Callable[[], None]) -> None:
    """If this failed, one client with many sockets and hardly a byte on each could shut out all others."""
    impatient()
    with connected(scene) as slow:
        slow.sendall(b"POST /v1/generate HTTP/1.1\r\nX-One: 1\r\n")
        answer = rest(slow)
    # Under load its time may be over before its first byte is there.
    assert answer == b"" or answer.startswith(b"HTTP/1.1 408")


def test_a_head_that_drips(scene: Scene, impatient: Callable[[], None]) -> None:
    """If this failed, a header now and then would buy more time each time."""
    impatient()
    with connected(scene) as slow:
        slow.settimeout(0.05)
        with contextlib.suppress(ConnectionError):
            slow.sendall(b"POST /v1/generate HTTP/1.1\r\n")
            for number in range(1000):
                slow.sendall(b"X-%d: 1\r\n" % number)
                with contextlib.suppress(TimeoutError):
                    slow.recv(65536)
                    return
            pytest.fail("the server went on waiting")


def test_a_connection_that_says_nothing(scene: Scene, impatient: Callable[[], None]) -> None:
    """If this failed, connections that were only opened would add up."""
    impatient()
    with connected(scene) as silent:
        assert rest(silent) == b""


def test_a_second_head_that_never_ends(scene: Scene, impatient: Callable[[], None]) -> None:
    """If this failed, one good request would be the price of a connection for ever."""
    with connected(scene) as slow:
        slow.sendall(request())
        assert one(slow).startswith(b"HTTP/1.1 200")
        impatient()
        slow.sendall(b"POST /v1/")
        assert rest(slow).startswith(b"HTTP/1.1 408")


def test_a_body_that_never_ends(scene: Scene) -> None:
    """If this failed, a request without its end would be kept for as long as its client likes."""
    with connected(scene) as slow:
        slow.sendall(request()[:-5])
        answer = rest(slow)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"application/problem+json" in answer
    assert b'"retryable":true' in answer


def test_a_body_that_nobody_reads(scene: Scene, impatient: Callable[[], None]) -> None:
    """If this failed, the body of a request that wants none could drip for ever."""
    with connected(scene) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx")
        assert one(slow).startswith(b"HTTP/1.1 200")
        impatient()
        slow.sendall(b"x")
        rest(slow)


def test_a_slow_answer_is_no_slow_client(scene: Scene, impatient: Callable[[], None]) -> None:
    """If this failed, calls that take long would be cut off."""
    with connected(scene) as patient:
        patient.sendall(request())
        assert one(patient).startswith(b"HTTP/1.1 200")
        impatient()
        scene.provider.reply = lambda _: delayed(1.0, echo())
        patient.sendall(request())
        assert one(patient).startswith(b"HTTP/1.1 200")
    scene.provider.reply = lambda _: echo()


def test_who_reads_nothing_is_left(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, an answer that its client does not read would hold a connection for ever."""
    monkeypatch.setattr(connection, "TAKEN", 0.5)
    long = 8_000_000  # more than the buffers of both sockets hold
    asked = len(scene.provider.requests)
    with connected(scene) as deaf:
        deaf.sendall(request(json.dumps({"prompt": "x" * long, "signature": "question -> answer"}).encode()))
        until(lambda: len(scene.provider.requests) > asked, 60)
        until(lambda: scene.runtime.stats().pools["general"].unfinished == 0, 60)
        mine = deaf.getsockname()
        until(lambda: mine not in {one.raddr for one in psutil.Process().net_connections("tcp")}, 60)
        assert len(rest(deaf)) < long
