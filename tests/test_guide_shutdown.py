"""The guide to shutdown: its service, stopped by real servers' ways of stopping."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.blocks import blocks, write_files
from tests.processes import alive, lines, until
from tests.provider import Provider
from tests.servers import ROOT, Server

UVICORN = ["-m", "uvicorn", "asked:app", "--port", "0"]
GUNICORN = ["-m", "gunicorn", "asked:app", "--bind", "127.0.0.1:0", "--no-control-socket", "-k", "asgi"]
# What a service of one's own has besides: a request that waits for its call, and one that does not.
ASKED = """
import asyncio
from pathlib import Path

from service import app

later = set()


async def wait(mark, seconds):
    arguments = {"seconds": seconds, "mark": mark}
    answer = await app.state.runtime.pool().aexecute("wait", arguments, timeout=None)
    Path(mark + ".done").write_text(answer)
    return answer


@app.get("/now")
async def now(mark: str, seconds: float):
    return await wait(mark, seconds)


@app.get("/later")
async def begin(mark: str, seconds: float):
    later.add(asyncio.create_task(wait(mark, seconds)))
"""


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


def served(command: list[str], folder: Path, provider: Provider) -> Server:
    write_files(blocks(ROOT / "docs/how-to/shutdown.md"), folder)
    (folder / "asked.py").write_text(ASKED)
    path = os.pathsep.join([str(folder), str(ROOT)])
    return Server(
        command, folder / "log", provider, folder=folder, PYTHONPATH=path, DSPEX_ALLOW_MODULES="tests.stuck"
    )


def ask(server: Server, path: str, mark: Path, seconds: float) -> httpx.Response:
    answer = httpx.get(f"{server.url}{path}", params={"mark": str(mark), "seconds": seconds}, timeout=60)
    until(lambda: lines(mark), 30)
    return answer


@pytest.mark.parametrize("command", [UVICORN, GUNICORN], ids=["uvicorn", "gunicorn"])
def test_a_service_ends_its_calls_first(command: list[str], tmp_path: Path, provider: Provider) -> None:
    """If this failed, a deployment would cost the requests under way, or what they had left running."""
    with served(command, tmp_path, provider) as server, ThreadPoolExecutor() as threads:
        until(lambda: not httpx.get(f"{server.url}/docs").is_error, 30)
        ask(server, "/later", tmp_path / "later", 2)
        now = threads.submit(ask, server, "/now", tmp_path / "now", 1)
        until(lambda: lines(tmp_path / "now"), 30)
        assert server.stop() in {0, -signal.SIGTERM}
        assert now.result().json() == "waited"
        assert (tmp_path / "later.done").read_text() == "waited"


def test_gunicorn_has_one_limit_for_all(tmp_path: Path, provider: Provider) -> None:
    """If this failed, the guide would name a limit that does not hold, or gunicorn would leave workers."""
    with served([*GUNICORN, "--graceful-timeout", "1"], tmp_path, provider) as server:
        ask(server, "/later", tmp_path / "later", 3600)
        family = server.family()
        server.stop()
        assert not any(map(alive, family))
        assert not (tmp_path / "later.done").exists()


def test_uvicorn_has_a_limit_for_requests(tmp_path: Path, provider: Provider) -> None:
    """If this failed, the guide would promise calls the time to end, and a server would not give it."""
    command = [*UVICORN, "--timeout-graceful-shutdown", "1"]
    with served(command, tmp_path, provider) as server, ThreadPoolExecutor() as threads:
        ask(server, "/later", tmp_path / "later", 4)
        now = threads.submit(ask, server, "/now", tmp_path / "now", 3600)
        until(lambda: lines(tmp_path / "now"), 30)
        server.stop()
        assert now.result().status_code == 500
        assert (tmp_path / "later.done").read_text() == "waited"
