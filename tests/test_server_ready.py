"""The server: whether it says that it is ready, and that a silent stream still lives."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

import dspex
from dspex.server import sse
from tests.http_scene import Scene, events, serving
from tests.processes import until
from tests.provider import delayed, echo


def failing(scene: Scene) -> list[str]:
    """What the server says that it waits for; nothing when it is ready."""
    answer = scene.client.get("/readyz")
    if answer.status_code == 200:
        return []
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert "retry-after" in answer.headers
    found: list[str] = answer.json()["details"]["failing"]
    return found


def test_not_ready_without_a_worker() -> None:
    """If this failed, a load balancer would send requests to where nobody answers them."""
    with serving() as scene:
        (worker,) = scene.runtime.stats().pools["general"].workers
        zygote = psutil.Process(worker.pid).parent()
        assert zygote is not None
        zygote.send_signal(signal.SIGSTOP)  # so that no other worker comes
        try:
            os.kill(worker.pid, signal.SIGKILL)
            until(lambda: failing(scene) == ["pool general"])
            assert scene.client.get("/healthz").status_code == 200
        finally:
            zygote.send_signal(signal.SIGCONT)
        until(lambda: failing(scene) == [], 60)


def test_not_ready_without_the_store(tmp_path: Path) -> None:
    """If this failed, sessions would be sent to a server that cannot keep them."""
    store = tmp_path / "sessions.db"
    with serving(settings=dspex.Settings(file=False, store=str(store))) as scene:
        assert failing(scene) == []
        store.rename(tmp_path / "elsewhere.db")
        until(lambda: failing(scene) == ["store"])
        assert str(tmp_path) not in scene.client.get("/readyz").text


def test_a_silent_stream_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, proxies would close the streams of models that think for long."""
    monkeypatch.setattr(sse, "HEARTBEAT", 0.05)
    with serving() as scene:
        scene.provider.reply = lambda _: delayed(0.5, echo())
        answer = scene.client.post("/v1/stream", json={"prompt": "hi", "signature": "question -> answer"})
        assert answer.text.count(": still here\n\n") >= 2
        came = events(answer)
        assert came[0][0] == "started"
        assert came[-1][1]["outputs"] == {"answer": "hi"}
