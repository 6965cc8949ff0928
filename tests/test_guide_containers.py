"""The guide to containers: as first process, with nowhere to write, with system calls refused."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.namespaces import AS_FIRST, READ_ONLY, need
from tests.processes import alive, until
from tests.provider import Provider
from tests.servers import EXAMPLES, ROOT, Server

DOCKERFILE = EXAMPLES / "container" / "Dockerfile"


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


def run(body: str, prefix: list[str], **variables: str) -> str:
    """What a program prints that is started by another command."""
    ran = subprocess.run(
        [*prefix, sys.executable, "-c", "import dspex, os, signal, sys, time\n" + textwrap.dedent(body)],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def refusing(calls: str, error: str) -> list[str]:
    return [sys.executable, "-m", "tests.refusing", "--errno", error, calls, "--"]


@pytest.mark.parametrize(
    ("calls", "refused", "error"),
    [
        ("pidfd_open,pidfd_send_signal", "pidfd_open", "EPERM"),
        ("pidfd_open,pidfd_send_signal", "pidfd_open", "ENOSYS"),
        ("pidfd_send_signal", "pidfd_send_signal", "EPERM"),
    ],
)
def test_refused_pidfds_are_named_at_once(calls: str, refused: str, error: str) -> None:
    """If this failed, an old container would say nothing but EPERM, or keep no deadline."""
    body = """
    try:
        dspex.Runtime(start_timeout=50).open()
    except dspex.PoolUnhealthy as error:
        print(error.details["cause"])
    """
    cause = run(body, refusing(calls, error))
    assert cause.startswith(f"this system refuses {refused} (")
    assert "seccomp" in cause


def test_refused_pidfds_without_waiting() -> None:
    """If this failed, a runtime that is opened without waiting would let its calls run out of time."""
    body = """
    with dspex.Runtime(wait=False) as runtime:
        try:
            runtime.pool().execute("ping", timeout=50)
        except dspex.PoolUnhealthy as error:
            print(error.details["cause"])
    """
    assert "refuses pidfd_open" in run(body, refusing("pidfd_open", "EPERM"))


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
def test_a_refused_memfd_is_done_without(error: str) -> None:
    """If this failed, a container that allows no anonymous files could send no large value."""
    body = """
    with dspex.Runtime(pools={"general": dspex.PoolOptions(workers=1)}) as runtime:
        large = b"x" * 5_000_000
        print(runtime.pool().execute("echo", {"large": large})["large"] == large)
    """
    assert run(body, refusing("memfd_create", error)) == "True\n"


def test_as_first_process() -> None:
    """If this failed, a container without an init would lose its workers, or gather their corpses."""
    need(AS_FIRST)
    body = """
    def others():
        return len([name for name in os.listdir("/proc") if name.isdigit()]) - 1

    assert os.getpid() == 1
    with dspex.Runtime(pools={"general": dspex.PoolOptions(workers=1)}) as runtime:
        for number in range(3):
            os.kill(runtime.stats().pools["general"].workers[0].pid, signal.SIGKILL)
            while runtime.stats().pools["general"].restarts != {"crashed": number + 1}:
                time.sleep(0.01)
            runtime.pool().execute("ping")
        print("its zygote and a worker:", others())
    print("left:", others())
    """
    assert run(body, AS_FIRST) == "its zygote and a worker: 2\nleft: 0\n"


@pytest.mark.parametrize("prefix", [[], AS_FIRST, READ_ONLY], ids=["plain", "first", "read-only"])
def test_the_containers_command(prefix: list[str], provider: Provider, tmp_path: Path) -> None:
    """If this failed, the image that the guide builds would not serve, not stop, or need a disk."""
    if prefix:
        need(prefix)
    found = re.search(r"^CMD (.+)$", DOCKERFILE.read_text(), re.M)
    assert found is not None
    python, *command = json.loads(found[1])
    assert python == "python"
    there = {"0.0.0.0": "127.0.0.1", "8000": "0"}
    command = [there.get(word, word) for word in command]
    log = tmp_path / "log"
    with Server(command, log, provider, prefix=prefix, PYTHONPATH=str(EXAMPLES)) as server:
        asked = httpx.post(f"{server.url}/answer", json={"question": "hi"}, timeout=60)
        assert asked.json() == {"answer": "hi"}
        inside = server.family()
        assert inside
        os.kill(server.first, signal.SIGTERM)
        server.process.wait(30)
        until(lambda: not any(alive(pid) for pid in inside))
        assert "Application shutdown complete" in server.log
        assert "Traceback" not in server.log


def test_the_image_is_built_from_what_is_there() -> None:
    """If this failed, building the image would end with a file that is not found."""
    copied = re.findall(r"^COPY (.+) \S+$", DOCKERFILE.read_text(), re.M)
    assert copied
    for path in " ".join(copied).split():
        assert (ROOT / path).exists(), path
