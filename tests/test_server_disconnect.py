"""The server: clients that leave, and clients that read slowly."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import dspex
from tests.http_scene import Scene, serving
from tests.processes import until
from tests.provider import echo, fields, hanging, paced

BODY = {"prompt": "hi", "signature": "question -> answer"}
PROGRAMS = {"short": {"signature": "question -> answer"}}


@pytest.fixture(scope="module")
def served() -> Iterator[Scene]:
    with serving(settings=dspex.Settings(file=False, programs=PROGRAMS)) as scene:
        yield scene


@pytest.fixture
def scene(served: Scene) -> Scene:
    served.provider.reply = lambda _: echo()
    return served


def counters(scene: Scene) -> Counter[str]:
    return Counter(scene.runtime.stats().pools["general"].counters)


@contextlib.contextmanager
def asked(scene: Scene, path: str, body: dict[str, Any]) -> Iterator[socket.socket]:
    """A request whose answer nobody has read yet, over a socket with small buffers."""
    url = scene.client.base_url
    with socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        opened.settimeout(60)
        opened.connect((url.host, url.port or 80))
        sent = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        opened.sendall(f"{head}Content-Length: {len(sent)}\r\n\r\n".encode() + sent)
        yield opened


def unfinished(scene: Scene) -> int:
    return scene.runtime.stats().pools["general"].unfinished


def troubles(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


@pytest.mark.parametrize("path", ["/v1/generate", "/v1/stream", "/v1/programs/short", "session"])
def test_a_client_that_leaves_stops_its_call(scene: Scene, path: str) -> None:
    """If this failed, the model would work, and be paid, for nobody."""
    body: dict[str, Any] = BODY
    if path == "session":
        made = scene.client.post("/v1/sessions/leaving/programs", json={"signature": "question -> answer"})
        path = f"/v1/sessions/leaving/programs/{made.json()['id']}/execute"
    if not path.startswith(("/v1/generate", "/v1/stream")):
        body = {"prompt": "hi"}
    scene.provider.reply = lambda _: hanging()
    before = scene.provider.disconnects
    with asked(scene, path, body):
        until(lambda: scene.provider.in_flight == 1, 60)
    until(lambda: scene.provider.disconnects == before + 1, 60)
    until(lambda: unfinished(scene) == 0, 60)
    assert scene.provider.in_flight == 0
    scene.provider.reply = lambda _: echo()
    assert scene.client.post(path, json=body).status_code == 200


def test_a_reader_that_leaves_stops_its_stream(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """If this failed, a browser tab that was closed would go on costing money, or log a traceback."""
    scene.streaming.reply = lambda _: paced(echo(), cut=1, pause=0.02)
    before = scene.streaming.disconnects
    long = {"prompt": "word " * 200, "signature": "question -> answer", "lm": "pieces"}
    with scene.client.stream("POST", "/v1/stream", json=long) as answer:
        for line in answer.iter_lines():
            if line == "event: delta":
                break
    until(lambda: scene.streaming.disconnects == before + 1, 60)
    until(lambda: unfinished(scene) == 0, 60)
    assert scene.generate().status_code == 200
    assert not troubles(caplog)


LONG = 24_000_000  # more than all buffers between a provider and a client hold


def test_a_slow_reader_slows_his_own_model_only(scene: Scene) -> None:
    """If this failed, one reader that is slow would fill the server's memory, or hold up all others."""
    scene.streaming.reply = lambda _: paced(fields(answer="y" * LONG), cut=50_000)
    long = {"prompt": "hi", "signature": "question -> answer", "lm": "pieces"}
    with asked(scene, "/v1/stream", long) as slow:
        assert b"200 OK" in slow.recv(100)
        for _ in range(50):
            assert scene.generate().status_code == 200
        # It has no pauses of its own: nothing but the reader keeps it from being done.
        assert scene.streaming.in_flight == 1
        assert unfinished(scene) == 1
        came = bytearray()
        while b"event: final" not in came[-100_000:]:
            came += slow.recv(2**20)
    deltas = [json.loads(line[6:]) for line in came.split(b"\n") if line.startswith(b'data: {"field"')]
    assert sum(len(one["text"]) for one in deltas) == LONG
    until(lambda: unfinished(scene) == 0, 60)


def test_a_slow_reader_that_leaves_stops_his_model(scene: Scene) -> None:
    """If this failed, whoever leaves while the server waits for him to read would keep his slot."""
    scene.streaming.reply = lambda _: paced(fields(answer="y" * LONG), cut=50_000)
    before = scene.streaming.disconnects
    long = {"prompt": "hi", "signature": "question -> answer", "lm": "pieces"}
    with asked(scene, "/v1/stream", long):
        until(lambda: scene.streaming.in_flight == 1, 60)
        for _ in range(50):  # in which all buffers fill
            assert scene.generate().status_code == 200
    until(lambda: scene.streaming.disconnects == before + 1, 60)
    until(lambda: unfinished(scene) == 0, 60)


def test_a_slow_reader_has_no_longer_than_his_deadline(scene: Scene) -> None:
    """If this failed, a reader that stands still would hold a slot for as long as he likes."""
    scene.streaming.reply = lambda _: paced(fields(answer="y" * LONG), cut=50_000)
    long = {"prompt": "hi", "signature": "question -> answer", "lm": "pieces", "timeout": 2}
    ended = counters(scene)["python_timeout"]
    with asked(scene, "/v1/stream", long) as still:
        until(lambda: counters(scene)["python_timeout"] == ended + 1, 60)
        until(lambda: unfinished(scene) == 0 and scene.streaming.in_flight == 0, 60)
        assert scene.generate().status_code == 200
        came = b""
        while b'"code":"python_timeout"' not in came[-100_000:]:
            came += still.recv(2**20)


def test_leaving_is_no_error(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """If this failed, the log would be full of tracebacks of people who closed a window."""
    scene.provider.reply = lambda _: hanging()
    with pytest.raises(httpx.ReadTimeout):
        scene.client.post("/v1/generate", json=BODY, timeout=httpx.Timeout(60, read=0.2))
    until(lambda: scene.provider.in_flight == 0 and unfinished(scene) == 0, 60)
    assert not troubles(caplog)
