"""Log lines: none that nobody asked for, each about a call with its id, and nothing of what was said."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

import dspex
from dspex.telemetry import logs
from tests.processes import until
from tests.provider import Provider, fault, fields
from tests.servers import Server
from tests.shell import SCRIPT, environment
from tests.shell import dspex as command

ROOT = logging.getLogger("dspex")
QUESTION = "question -> answer"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """What a test sets up is gone after it."""
    handlers, level = list(ROOT.handlers), ROOT.level
    yield
    assert (ROOT.handlers, ROOT.level) == (handlers, level)


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> StringIO:
    """In the place of standard error."""
    stream = StringIO()
    # Not sys.stderr itself, which pytest sets anew between a fixture and its test.
    monkeypatch.setattr(logs, "sys", SimpleNamespace(stderr=stream))
    return stream


def model(provider: Provider) -> dspex.LM:
    return dspex.LM(
        "openai/x", base_url=provider.base_url, api_key="canary-key", retry=dspex.Retry(attempts=1)
    )


def opened(provider: Provider, **settings: Any) -> dspex.Runtime:
    known = dspex.Settings(file=False, allow_modules=["tests.stuck", "tests.commands"], **settings)
    return dspex.Runtime(model(provider), pools={"general": dspex.PoolOptions(workers=1)}, settings=known)


def lines(stream: StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


SILENT = """
import os, signal, dspex
pools = {"general": dspex.PoolOptions(workers=1), "genral": dspex.PoolOptions(workers=1)}
with dspex.Runtime(pools=pools) as runtime:
    (worker,) = runtime.stats().pools["general"].workers
    os.kill(worker.pid, signal.SIGKILL)
    while not runtime.stats().pools["general"].restarts:
        pass
    assert runtime.pool().execute("ping") == "pong"
"""


def test_who_sets_up_nothing_sees_nothing(tmp_path: Path) -> None:
    """If this failed, a library would write into the output of programs that never asked for it."""
    ran = subprocess.run(
        [sys.executable, "-c", SILENT],
        env=environment(DSPEX_NO_SUCH_OPTION="1"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_a_command_shows_warnings(tmp_path: Path) -> None:
    """If this failed, who types a variable's name wrong at a shell would not be told."""
    ran = command("status", DSPEX_NO_SUCH_OPTION="1", XDG_RUNTIME_DIR=str(tmp_path))
    assert ran.returncode == 0
    ran = command("session", "list", DSPEX_NO_SUCH_OPTION="1", DSPEX_STORE=str(tmp_path / "s.db"))
    assert ran.stderr.count("the variable DSPEX_NO_SUCH_OPTION sets no option of dspex") == 1


def test_json_by_a_setting(provider: Provider, stderr: StringIO) -> None:
    """If this failed, a service in a container would need code of its own for what collects its lines."""
    provider.reply = lambda _: fields(answer="canary-answer")
    with opened(provider, log="json") as runtime:
        answer = runtime.adapter(tenant="canary-tenant").generate("canary-prompt", signature=QUESTION)
        provider.reply = lambda _: fault(400, message="canary-words")
        with pytest.raises(dspex.LMInvalidRequest) as caught:
            runtime.adapter().generate("q", signature=QUESTION)
    assert "canary" not in stderr.getvalue()
    found = [line for line in lines(stderr) if line["logger"] == "dspex.calls"]
    assert [(line["request_id"], line["code"], line["level"]) for line in found] == [
        (answer.request_id, "ok", "info"),
        (caught.value.request_id, "lm_invalid_request", "info"),
    ]
    assert found[0]["prompt_tokens"] == answer.usage.prompt_tokens
    assert found[0]["total"] > 0


def test_text_by_a_variable(
    provider: Provider, stderr: StringIO, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """If this failed, it could not be had where only the environment is ours."""
    provider.reply = lambda _: fields(answer="x")
    monkeypatch.setenv("DSPEX_LOG", "text")
    with opened(provider) as runtime:
        answer = runtime.adapter().generate("q", signature=QUESTION)
    (line,) = [line for line in stderr.getvalue().splitlines() if "dspex.calls" in line]
    assert "INFO dspex.calls: dspy.Predict: ok after " in line
    assert line.endswith(f"[{answer.request_id}]")
    (tmp_path / "dspex.toml").write_text('log = "json"\n')
    assert dspex.Settings(file=tmp_path / "dspex.toml").log == "json", "a file is stronger"


@pytest.mark.parametrize("form", ["yaml", "", 3, ["json"]])
def test_a_form_that_there_is_not(form: Any) -> None:
    """If this failed, a slip would silence a service."""
    with pytest.raises(dspex.InvalidOption, match="log has to be"):
        dspex.Settings(file=False, log=form)


def test_two_runtimes_write_each_line_once(provider: Provider, stderr: StringIO) -> None:
    """If this failed, counting lines would count twice, and one that closes would silence the other."""
    provider.reply = lambda _: fields(answer="x")
    with opened(provider, log="json") as stays:
        with opened(provider, log="json") as leaves:
            leaves.adapter().generate("q", signature=QUESTION)
        stays.adapter().generate("q", signature=QUESTION)
    assert len([line for line in lines(stderr) if line["logger"] == "dspex.calls"]) == 2
    with pytest.raises(dspex.DspexError):
        dspex.Runtime("no-such-profile", settings=dspex.Settings(file=False, log="json"))


def test_a_lost_worker_names_the_calls_that_it_ran(provider: Provider, stderr: StringIO) -> None:
    """If this failed, nobody could tell whose calls a crash has cost."""
    with opened(provider, log="json") as runtime, ThreadPoolExecutor(2) as executor:
        calls = [
            executor.submit(runtime.pool().execute, "wait", {"seconds": 600}, timeout=60) for _ in range(2)
        ]
        general = runtime.stats().pools["general"]
        (worker,) = general.workers
        until(lambda: runtime.stats().pools["general"].workers[0].in_flight == 2, 60)
        os.kill(worker.pid, signal.SIGKILL)
        lost = [call.exception(60) for call in calls]
        (gone,) = [line for line in lines(stderr) if "is gone" in line["message"]]
    assert gone["level"] == "warning"
    assert set(gone["request_ids"]) == {getattr(error, "request_id", "") for error in lost}
    assert gone["request_id"] is None


def test_what_a_program_prints_names_its_call(provider: Provider, stderr: StringIO) -> None:
    """If this failed, a print in a program could not be told from that of another call."""
    with opened(provider, log="json") as runtime, ThreadPoolExecutor(1) as executor:
        call = executor.submit(runtime.pool().execute, "tests.say_and_wait", {"text": "here"}, timeout=60)
        until(lambda: "here" in stderr.getvalue(), 60)
        (said,) = [line for line in lines(stderr) if line["message"] == "here"]
        runtime.close()
        error = call.exception(60)
    assert isinstance(error, dspex.PoolClosed)
    assert said["request_id"] == error.request_id
    assert said["logger"] == "dspex.output"


def test_what_outlives_a_call_is_not_about_it(stderr: StringIO) -> None:
    """If this failed, a line about one customer's call would bear the id of another's."""
    handler = logs.to_json(stderr)
    log = logging.getLogger("dspex.test")

    async def later(after: asyncio.Event) -> None:
        log.info("during")
        await after.wait()
        log.info("after")

    async def call() -> None:
        after = asyncio.Event()
        with logs.about("one"):
            task = asyncio.create_task(later(after))
            await asyncio.sleep(0)
        after.set()
        await task

    try:
        asyncio.run(call())
    finally:
        ROOT.removeHandler(handler)
        ROOT.setLevel(logging.NOTSET)
    assert [line["request_id"] for line in lines(stderr)] == ["one", None]


def test_an_exception_is_told_by_its_place(stderr: StringIO) -> None:
    """If this failed, a fault could not be found, or its words would give away what it was about."""
    handler = logs.to_json(stderr)
    try:
        try:
            raise ValueError("canary-words")
        except ValueError:
            logging.getLogger("dspex.test").exception("it failed")
    finally:
        ROOT.removeHandler(handler)
        ROOT.setLevel(logging.NOTSET)
    (line,) = lines(stderr)
    assert line["error"] == "ValueError"
    assert "test_logs.py" in line["where"][0]
    assert "canary" not in stderr.getvalue()


@pytest.mark.parametrize(("asked", "variable"), [("json", ""), ("debug", "json"), ("info,json", "text")])
def test_serve_writes_json(provider: Provider, tmp_path: Path, asked: str, variable: str) -> None:
    """If this failed, half of a service's lines would be JSON, and what reads them stop at the others."""
    provider.reply = lambda _: fault(401)
    arguments = [*SCRIPT[1:], "serve", "--port", "0", "--workers", "1", "--log", asked]
    arguments += ["--base-url", provider.base_url]
    file = tmp_path / "log"
    with Server(arguments, file, provider, folder=tmp_path, DSPEX_LOG=variable) as server:
        asked_for = {"prompt": "canary-prompt", "signature": QUESTION}
        answer = httpx.post(f"{server.url}/v1/generate", json=asked_for, timeout=60)
        assert answer.status_code >= 400
        name = answer.headers["X-Request-Id"]
        until(lambda: server.log.count(name) >= 3, 60)
        assert server.stop() == 0
    found = lines(StringIO(server.log))
    said = [line for line in found if line["request_id"] == name]
    assert {line["logger"] for line in said} >= {"dspex.server", "dspex.calls"}
    (access,) = [line for line in said if "method" in line]
    assert (access["method"], access["status"]) == ("POST", answer.status_code)
    assert access["seconds"] > 0
    (ended,) = [line for line in said if line["logger"] == "dspex.calls"]
    assert ended["code"] == "lm_auth"
    assert "canary" not in server.log


@pytest.mark.parametrize("log", ["loud", "json,text", "info,debug", ""])
def test_serve_refuses_what_it_does_not_know(log: str) -> None:
    """If this failed, a service would start and not log as it was told."""
    ran = command("serve", "--log", log)
    assert ran.returncode == 2
    assert "--log is debug, info, warning or error" in ran.stderr
