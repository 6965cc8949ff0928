"""A small model in place of the embedded one, and a world in which no test reaches the real hub."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from dspex.lm.weights import Weights

CONTENT = random.Random(0).randbytes(3_500_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches the real hub or the user's own hub cache; the default hub refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def weights(pieces: tuple[str, ...] = (), sha256: str = SHA256) -> Weights:
    return Weights("tiny.gguf", len(CONTENT), sha256, "someone/tiny", pieces)


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {"tiny.gguf.lock"}


async def eventually(check: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not check():  # noqa: ASYNC110 - another process does it, and sets no event
            await asyncio.sleep(0.01)


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has reaped yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
