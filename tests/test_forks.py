"""A fork of the process that has a runtime open: the copy is told, and the original is not disturbed."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

import dspex
from tests.blocks import blocks, write_files
from tests.processes import alive, until
from tests.provider import Provider
from tests.servers import Server

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def runtime() -> Iterator[dspex.Runtime]:
    with dspex.Runtime(pools={"general": dspex.PoolOptions(workers=2)}) as opened:
        until(lambda: [w.state for w in opened.stats().pools["general"].workers] == ["ready"] * 2)
        yield opened


def in_fork(body: Callable[[], object]) -> object:
    """Run something in an ``os.fork`` of this process; what it returned, as JSON can say it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, json.dumps(body()).encode())
            os._exit(0)
        except BaseException:
            os.write(writer, json.dumps(traceback.format_exc()).encode())
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = json.loads(pipe.read())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, answer
    return answer


def use(runtime: dspex.Runtime) -> list[str]:
    try:
        runtime.pool("general").execute("ping", timeout=5)
    except dspex.PoolClosed as error:
        return [error.code, error.message]
    return ["answered"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_is_told_to_open_its_own(runtime: dspex.Runtime) -> None:
    """If this failed, gunicorn's preloaded workers would read each other's answers, or hang."""
    answer = in_fork(lambda: use(runtime))
    assert isinstance(answer, list)
    assert answer[0] == "pool_closed"
    assert str(os.getpid()) in answer[1]
    assert "post_fork" in answer[1]
    assert runtime.pool("general").execute("ping") == "pong"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_that_closes_leaves_the_original_alone(runtime: dspex.Runtime) -> None:
    """If this failed, one finished child would end the workers of its parent."""
    before = [worker.pid for worker in runtime.stats().pools["general"].workers]

    def close() -> str:
        runtime.close()
        return "closed"

    assert in_fork(close) == "closed"
    assert runtime.pool("general").execute("echo", {"a": 1}) == {"a": 1}
    assert [worker.pid for worker in runtime.stats().pools["general"].workers] == before


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_can_open_its_own(runtime: dspex.Runtime) -> None:
    """If this failed, no prefork server could use dspex at all."""

    def open_own() -> object:
        with dspex.Runtime(pools={"general": dspex.PoolOptions(workers=1)}) as own:
            return own.pool("general").execute("ping")

    assert in_fork(open_own) == "pong"
    assert runtime.pool("general").execute("ping") == "pong"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_that_lives_on_keeps_no_worker_alive() -> None:
    """If this failed, a child of the service would hold its workers after the service was killed."""
    body = """
    import dspex, os, sys, time
    runtime = dspex.Runtime(pools={"general": dspex.PoolOptions(workers=2)}).open()
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child, *[worker.pid for worker in runtime.stats().pools["general"].workers], flush=True)
    time.sleep(60)
    """
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(body)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    child, *workers = map(int, process.stdout.readline().split())
    process.kill()
    process.wait()
    process.stdout.close()
    try:
        until(lambda: not any(alive(pid) for pid in workers), 2.0)
        assert alive(child)
    finally:
        os.kill(child, 9)


def _use_in_child(queue: multiprocessing.Queue[list[str]]) -> None:
    assert _shared is not None
    queue.put(use(_shared))


_shared: dspex.Runtime | None = None


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_multiprocessing_by_fork(runtime: dspex.Runtime) -> None:
    """If this failed, a data loader or a pool of the caller's would break the runtime."""
    global _shared  # noqa: PLW0603
    _shared = runtime
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[list[str]] = context.Queue()
    children = [context.Process(target=_use_in_child, args=(queue,)) for _ in range(3)]
    for child in children:
        child.start()
    answers = [queue.get(timeout=20) for _ in children]
    for child in children:
        child.join(20)
    assert [answer[0] for answer in answers] == ["pool_closed"] * 3
    assert [child.exitcode for child in children] == [0] * 3
    assert runtime.pool("general").execute("ping") == "pong"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_prefork_server() -> None:
    """If this failed, a master that opens a runtime before it forks its workers would have them share it."""
    body = """
    import dspex, os, sys
    one = {"general": dspex.PoolOptions(workers=1)}
    shared = dspex.Runtime(pools=one).open()  # a mistake: before the fork
    children = []
    for number in range(2):
        pid = os.fork()
        if pid == 0:
            try:
                shared.adapter().generate("?")
            except dspex.PoolClosed:
                pass
            with dspex.Runtime(pools=one) as own:  # post_fork
                assert own.pool("general").execute("echo", {"number": number}) == {"number": number}
            sys.exit(0)  # through the interpreter's whole exit, atexit included
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert shared.pool("general").execute("ping") == "pong"
    shared.close()
    print(codes)
    """
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(body)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stdout == "[0, 0]\n", ran.stderr


GUNICORN = """
import sys
from gunicorn.app.wsgiapp import run
from tests.blocks import redirect
redirect(sys.argv.pop(1), local=False)
run()
"""


@pytest.mark.parametrize("options", [[], ["--preload"]], ids=["plain", "preload"])
def test_gunicorn_as_the_guide_has_it(options: list[str], tmp_path: Path) -> None:
    """If this failed, a reader who copies the guide's two files would have no service."""
    write_files(blocks(ROOT / "docs" / "how-to" / "forking-servers.md"), tmp_path)
    with Provider() as provider:
        address = provider.base_url.removesuffix("/v1")
        command = [
            "-c",
            GUNICORN,
            address,
            "answers",
            "--bind",
            "127.0.0.1:0",
            "--no-control-socket",
            *options,
        ]
        with Server(command, tmp_path / "log", provider, folder=tmp_path, PYTHONPATH=str(ROOT)) as server:
            until(lambda: len(server.family()) == 4 * 3)  # each with a zygote and a worker
            asked = [httpx.get(f"{server.url}/?hello", timeout=60) for _ in range(8)]
            assert [answer.text for answer in asked] == ["hello"] * 8
            assert server.stop() == 0
            assert "Traceback" not in server.log
