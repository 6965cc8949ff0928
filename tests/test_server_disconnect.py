"""The server: clients that leave, and a server that is told to leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.http_scene import Scene, serving
from tests.processes import until
from tests.provider import Provider, delayed, echo, hanging, paced

BODY = {"prompt": "hi", "signature": "question -> answer"}


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with serving() as scene:
        yield scene


def test_a_client_that_leaves_stops_its_call(scene: Scene) -> None:
    """If this failed, the model would work, and be paid, for nobody."""
    scene.provider.reply = lambda _: hanging()
    with pytest.raises(httpx.ReadTimeout):
        scene.client.post("/v1/generate", json=BODY, timeout=httpx.Timeout(60, read=0.5))
    until(lambda: scene.provider.disconnects == 1)
    until(lambda: scene.runtime.stats().pools["general"].unfinished == 0)
    scene.provider.reply = lambda _: echo()
    assert scene.client.post("/v1/generate", json=BODY).status_code == 200


def test_a_reader_that_leaves_stops_its_stream(scene: Scene) -> None:
    """If this failed, a browser tab that was closed would go on costing money."""
    scene.streaming.reply = lambda _: paced(echo(), cut=1, pause=0.1)
    with scene.client.stream("POST", "/v1/stream", json=BODY | {"lm": "pieces"}) as answer:
        for line in answer.iter_lines():
            if line == "event: delta":
                break
    until(lambda: scene.streaming.disconnects == 1)
    until(lambda: scene.runtime.stats().pools["general"].unfinished == 0)


def test_sigterm_finishes_what_was_accepted(tmp_path: Path) -> None:
    """If this failed, each deployment would lose the requests that were under way."""
    log = tmp_path / "log"
    with Provider(lambda _: delayed(1.0, echo())) as provider, log.open("wb") as file:
        command = [sys.executable, "-c", "from dspex.cli import main; main()", "serve", "--port", "0"]
        command += ["--lm", "openai/m", "--base-url", provider.base_url, "--workers", "1"]
        process = subprocess.Popen(
            command, stderr=file, cwd=tmp_path, env={**os.environ, "OPENAI_API_KEY": "k"}
        )
        try:
            until(lambda: "running on http" in log.read_text() or process.poll() is not None, 60)
            url = log.read_text().split("running on ")[1].split()[0]
            with ThreadPoolExecutor(8) as threads:
                asked = [
                    threads.submit(httpx.post, f"{url}/v1/generate", json=BODY, timeout=60) for _ in range(8)
                ]
                until(lambda: provider.in_flight == 8, 60)
                process.send_signal(signal.SIGTERM)
                assert [one.result().status_code for one in asked] == [200] * 8
            assert process.wait(30) == 0
            assert log.read_text().count("POST /v1/generate 200") == 8
            assert "Traceback" not in log.read_text()
            assert "hi" not in log.read_text().split()
        finally:
            process.kill()
            process.wait()
