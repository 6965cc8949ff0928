"""The guide to FastAPI: its example, served by real servers."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from examples.fastapi_app import problems

import dspex
from tests.processes import until
from tests.provider import Provider, delayed, echo, fault, hanging
from tests.servers import EXAMPLES, Server

UVICORN = ["-m", "uvicorn", "--app-dir", str(EXAMPLES), "fastapi_app.app:app", "--port", "0"]
GUNICORN = ["-m", "gunicorn", "--pythonpath", str(EXAMPLES), "fastapi_app.app:app", "--no-control-socket"]
GUNICORN += ["--bind", "127.0.0.1:0"]


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


def ask(server: Server, question: str = "hi") -> httpx.Response:
    return httpx.post(f"{server.url}/answer", json={"question": question}, timeout=60)


def await_ready(server: Server) -> None:
    def ready() -> bool:
        try:
            return httpx.get(f"{server.url}/ready").status_code == 204
        except httpx.TransportError:
            return False

    until(ready, 60)


def zygotes(server: Server) -> int:
    return sum("dspex.worker.zygote" in psutil.Process(pid).cmdline() for pid in server.family())


def test_an_answer_a_refusal_and_a_deadline(provider: Provider, tmp_path: Path) -> None:
    """If this failed, the service would not answer, or tell strangers what went wrong inside."""
    with Server(UVICORN, tmp_path / "log", provider, DEADLINE="0.5") as server:
        assert ask(server).json() == {"answer": "hi"}
        assert ask(server, "").status_code == 422
        provider.reply = lambda _: fault(401)
        refused = ask(server)
        assert refused.status_code == 500
        assert refused.headers["content-type"] == "application/problem+json"
        assert set(refused.json()) == {"title", "status", "request_id"}
        assert f"{refused.json()['request_id']}: lm_auth" in server.log
        provider.reply = lambda _: hanging()
        assert ask(server).status_code == 504
        until(lambda: provider.disconnects == 1)
        assert server.stop() == -signal.SIGTERM  # uvicorn ends by the signal that it got
        assert "Traceback" not in server.log


def ask_and_leave(server: Server, provider: Provider, clients: int) -> None:
    """Have so many clients ask a model that does not answer, and leave once it was asked by all."""

    async def leave() -> None:
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None), timeout=60) as client:
            asked = [client.post(f"{server.url}/answer", json={"question": "hi"}) for _ in range(clients)]
            waiting = asyncio.gather(*asked)
            await asyncio.to_thread(until, lambda: provider.in_flight == clients, 60)
            waiting.cancel()
            await asyncio.wait([waiting])

    provider.reply = lambda _: hanging()
    asyncio.run(leave())
    until(lambda: provider.disconnects == clients and provider.in_flight == 0)


def test_a_client_that_leaves_stops_its_work(provider: Provider, tmp_path: Path) -> None:
    """If this failed, requests that nobody waits for would be paid, and fill all slots."""
    with Server(UVICORN, tmp_path / "log", provider, DEADLINE="100") as server:
        ask_and_leave(server, provider, dspex.PoolOptions().slots)
        provider.reply = lambda _: echo()
        assert ask(server).json() == {"answer": "hi"}, "the slots are free"
        assert "Traceback" not in server.log


@pytest.mark.parametrize(
    ("command", "processes"),
    [
        ([*UVICORN, "--workers", "2"], 2),
        ([*GUNICORN, "--worker-class", "asgi", "--workers", "2", "--preload"], 2),
        (["-W", "ignore", *GUNICORN, "--worker-class", "uvicorn.workers.UvicornWorker", "--preload"], 1),
    ],
    ids=["uvicorn", "gunicorn", "gunicorn-uvicorn"],
)
def test_each_server_process_has_its_own(
    command: list[str], processes: int, provider: Provider, tmp_path: Path
) -> None:
    """If this failed, a server of several processes would share workers, answer nothing, or leave some."""
    with Server(command, tmp_path / "log", provider) as server:
        await_ready(server)
        until(lambda: zygotes(server) >= 2 * processes, 60)  # a worker is a fork of one, and looks like it
        assert ask(server).json() == {"answer": "hi"}
        assert zygotes(server) == 2 * processes
        ask_and_leave(server, provider, 1)
        server.stop()
        assert "Traceback" not in server.log


def test_stopping_waits_for_answers(provider: Provider, tmp_path: Path) -> None:
    """If this failed, each deployment would cut off the calls that run."""
    with Server(UVICORN, tmp_path / "log", provider) as server, ThreadPoolExecutor(1) as client:
        provider.reply = lambda _: delayed(1.0, echo())
        call = client.submit(ask, server)
        until(lambda: provider.in_flight)
        server.stop()
        assert call.result().json() == {"answer": "hi"}


def test_stopping_with_a_limit_drops_the_rest(provider: Provider, tmp_path: Path) -> None:
    """If this failed, a server that was told to stop would wait for a model that does not answer."""
    limited = [*UVICORN, "--timeout-graceful-shutdown", "1"]
    with (
        Server(limited, tmp_path / "log", provider, DEADLINE="100") as server,
        ThreadPoolExecutor(1) as client,
    ):
        provider.reply = lambda _: hanging()
        call = client.submit(ask, server)
        until(lambda: provider.in_flight)
        server.stop()
        until(lambda: provider.disconnects == 1)
        assert call.exception() is not None or call.result().status_code == 500


def test_errors_tell_strangers_little() -> None:
    """If this failed, a message with a model's name or a process's number would reach a remote caller."""
    told = {}
    for name in dspex.__all__:
        kind = getattr(dspex, name)
        if isinstance(kind, type) and issubclass(kind, dspex.DspexError):
            response = problems.response(kind("secret", retry_after=0.2, details={"pid": 4711}))
            assert b"secret" not in response.body
            assert b"4711" not in response.body
            assert response.headers["retry-after"] == "1"
            told[kind.code] = response.status_code
    assert {code for code, status in told.items() if status == 503} >= {"pool_saturated", "lm_unavailable"}
    assert told["invalid_input"] == 422
    assert told["lm_auth"] == told["poison_call"] == 500
