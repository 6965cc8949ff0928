"""``dspex serve`` as a process: its options, and how it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from tests.processes import alive, until
from tests.provider import Provider, delayed, echo, hanging

BODY = {"prompt": "hi", "signature": "question -> answer"}
_SERVE = [
    sys.executable,
    "-c",
    "from dspex.cli import main; main()",
    "serve",
    "--port",
    "0",
    "--workers",
    "1",
]


class Served:
    """A server that runs as a process.

    Attributes:
        process: The process.
        url: Where it listens.
        log: What it writes to standard error.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.url = ""
        self._log = log

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text()


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as opened:
        yield opened


@contextlib.contextmanager
def served(folder: Path, provider: Provider, *options: str) -> Iterator[Served]:
    log = folder / "log"
    command = [*_SERVE, "--lm", "openai/m", "--base-url", provider.base_url, *options]
    environment = {**os.environ, "OPENAI_API_KEY": "k"}
    with log.open("wb") as file:
        process = subprocess.Popen(command, stderr=file, cwd=folder, env=environment)
    scene = Served(process, log)
    try:
        until(lambda: "running on http" in scene.log or process.poll() is not None, 60)
        scene.url = scene.log.split("running on ")[1].split()[0]
        yield scene
    finally:
        process.kill()
        process.wait()


def test_what_does_not_end_in_time_is_ended(provider: Provider, tmp_path: Path) -> None:
    """If this failed, one request that hangs would keep a deployment from ever ending."""
    provider.reply = lambda _: hanging()
    with served(tmp_path, provider, "--drain", "1") as server, ThreadPoolExecutor(1) as threads:
        asked = threads.submit(httpx.post, f"{server.url}/v1/generate", json=BODY, timeout=60)
        until(lambda: provider.in_flight == 1, 60)
        below = psutil.Process(server.process.pid).children(recursive=True)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        assert asked.result().status_code == 503
        assert asked.result().json()["code"] == "pool_closed"
        until(lambda: provider.in_flight == 0)
        assert not [child for child in below if alive(child.pid)]
        assert "Traceback" not in server.log


def test_a_second_signal_ends_it_at_once(provider: Provider, tmp_path: Path) -> None:
    """If this failed, somebody would have to wait for requests of strangers, or get a traceback instead."""
    provider.reply = lambda _: hanging()
    with served(tmp_path, provider, "--drain", "600") as server, ThreadPoolExecutor(1) as threads:
        threads.submit(httpx.post, f"{server.url}/v1/generate", json=BODY, timeout=60)
        until(lambda: provider.in_flight == 1, 60)
        server.process.send_signal(signal.SIGHUP)  # a terminal that goes is a signal as any
        until(lambda: "stopping: 1 under way" in server.log)
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 0
        until(lambda: provider.in_flight == 0)
        assert "Traceback" not in server.log


def test_connections_without_a_request_hold_up_nothing(provider: Provider, tmp_path: Path) -> None:
    """If this failed, a pool of idle connections would make each deployment wait for its whole drain."""
    with served(tmp_path, provider, "--drain", "600") as server, httpx.Client() as client:
        assert client.post(f"{server.url}/v1/generate", json=BODY, timeout=60).status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0


def test_it_can_be_told_to_leave_while_it_opens(provider: Provider, tmp_path: Path) -> None:
    """If this failed, a deployment that is taken back would leave workers, or a traceback."""
    command = [*_SERVE, "--lm", "openai/m", "--base-url", provider.base_url]
    with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=tmp_path, text=True) as process:
        until(lambda: psutil.Process(process.pid).children() or process.poll() is not None, 60)
        below = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in said
    assert "running on" not in said
    assert "stopped by SIGTERM" in said
    until(lambda: not [child for child in below if alive(child.pid)])


def test_models_are_named_only_where_that_is_allowed(provider: Provider, tmp_path: Path) -> None:
    """If this failed, callers could spend the operator's money on models that he did not choose."""
    other = BODY | {"lm": "openai/other"}
    with served(tmp_path, provider, "--quiet") as server:
        assert httpx.post(f"{server.url}/v1/generate", json=other, timeout=60).status_code == 403
        assert httpx.post(f"{server.url}/v1/generate", json=BODY, timeout=60).status_code == 200
        assert "/v1/generate" not in server.log
    with served(tmp_path, provider, "--allow-models") as server:
        # It may be named; where its provider is, is not this profile's address.
        answer = httpx.post(f"{server.url}/v1/generate", json=other | {"timeout": 0.5}, timeout=60)
        assert answer.status_code != 403
        until(lambda: "POST /v1/generate" in server.log)


def test_the_keys_of_tenants(provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a customer's key would not let him in, or it would let in everybody."""
    monkeypatch.setenv("ACME_KEY", "canary-acme")
    (tmp_path / "key").write_text("canary-globex\n")
    (tmp_path / "dspex.toml").write_text("[tenant_budgets.globex]\ntokens = 0\n")
    keys = ["--tenant-key", "acme=env:ACME_KEY", "--tenant-key", "globex=file:key"]
    with served(tmp_path, provider, *keys) as server:
        for shown, status in (("canary-acme", 200), ("canary-globex", 429), ("canary", 401), ("acme", 401)):
            headers = {"Authorization": f"Bearer {shown}"}
            answer = httpx.post(f"{server.url}/v1/generate", json=BODY, headers=headers, timeout=60)
            assert answer.status_code == status, (shown, answer.text)
        assert "canary" not in server.log


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("b=canary-key", "pass --tenant-key b=env:NAME"),
        ("canary-key", "as in acme=env:ACME_KEY"),
        ("=env:A", "as in acme=env:ACME_KEY"),
        ("acme=env:ACME_KEY", "'acme' is there twice"),
        ("b=env:ACME_KEY", "two of the keys"),
    ],
)
def test_a_tenants_key_that_is_none(tmp_path: Path, given: str, told: str) -> None:
    """If this failed, a key would stand in a process listing, or one customer would be another."""
    ran = subprocess.run(
        [*_SERVE, "--tenant-key", "acme=env:ACME_KEY", "--tenant-key", given],
        env={**os.environ, "ACME_KEY": "canary-acme"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 2
    assert told in ran.stderr
    assert "canary" not in ran.stderr
    assert "Traceback" not in ran.stderr


def test_fifty_requests_under_way_are_finished(provider: Provider, tmp_path: Path) -> None:
    """If this failed, each deployment under load would lose answers."""
    provider.reply = lambda _: delayed(1.0, echo())
    at_once = httpx.Limits(max_connections=50)
    with (
        served(tmp_path, provider) as server,
        httpx.Client(limits=at_once, timeout=60) as client,
        ThreadPoolExecutor(50) as threads,
    ):
        url = f"{server.url}/v1/generate"
        asked = [threads.submit(client.post, url, json=BODY) for _ in range(50)]
        until(lambda: len(provider.requests) == 50, 60)
        server.process.send_signal(signal.SIGTERM)
        assert [one.result().status_code for one in asked] == [200] * 50
        assert server.process.wait(60) == 0
        assert server.log.count("POST /v1/generate 200") == 50
        assert "Traceback" not in server.log
        assert "hi" not in server.log.split()  # nothing of a body


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    """If this failed, a plain installation would answer with a traceback."""
    hide = "import sys; sys.modules['fastapi'] = None; from dspex.cli import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", hide, "serve"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 2
    assert "pip install 'dspex[server]'" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.slow
def test_a_gigabyte_is_not_held(provider: Provider, tmp_path: Path) -> None:
    """If this failed, a few large bodies at once would take the memory of the machine."""
    with served(tmp_path, provider) as server:
        peak = Path(f"/proc/{server.process.pid}/status")

        def highest() -> int:
            (line,) = [one for one in peak.read_text().splitlines() if one.startswith("VmHWM")]
            return int(line.split()[1]) * 1024

        assert httpx.post(f"{server.url}/v1/generate", json=BODY, timeout=60).status_code == 200
        before = highest()
        for _ in range(3):
            # In chunks, without its length: that it goes over is not known before it does.
            whole = (b" " * 2**20 for _ in range(2**10))
            with contextlib.suppress(httpx.WriteError):  # it closes while the rest is still being sent
                answer = httpx.post(f"{server.url}/v1/generate", content=whole, timeout=60)
                assert answer.status_code == 413
        assert highest() - before < 2**28
        assert httpx.post(f"{server.url}/v1/generate", json=BODY, timeout=60).status_code == 200
