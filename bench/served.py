"""(o) HTTP: ``dspex serve`` against the application of DSPy's deployment guide, under ``wrk``.

Both are one command on the same machine with the same provider behind them. The guide's application is the
one of DSPy's own documentation: FastAPI, ``dspy.asyncify``, one process of uvicorn. It has
the four threads that the guide gives it, and, to be fair, as many as there are connections.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench.measure import ROOT, Row, provider, row, side_by_side

_PROVIDER_TAKES = 0.2
_CONNECTIONS = (64, 256)
_SECONDS = 10
# Few connections for warming up: what they leave behind, the guide's application works off all the same.
_WARM_CONNECTIONS, _WARM = 4, 3
_OURS = ("/v1/generate", {"inputs": {"question": "Why?"}, "signature": "question -> answer"})
_GUIDES = ("/predict", {"text": "Why?"})
# Threads of ``asyncify``: the guide's own figure, and as many as there are connections.
_THREADS = {"guide": 4, "tuned": 256}


def rows(rounds: int) -> list[Row]:
    """At least three times the guide's answers a second."""
    if shutil.which("wrk") is None:
        raise SystemExit("the suite 'http' needs wrk: install it (Debian: apt-get install wrk)")
    made = []
    with provider(_PROVIDER_TAKES) as base:
        for connections in _CONNECTIONS:
            kinds = ("ours", "guide", "tuned")
            runs = side_by_side(rounds, {kind: partial(_served, kind, base, connections) for kind in kinds})
            name = f"HTTP, {connections} connections / FastAPI + asyncify"
            made.append(row(name, runs["ours"], runs["guide"], "/s", ">= 3"))
            made.append(row(f"{name}, 256 threads", runs["ours"], runs["tuned"], "/s"))
    return made


def _served(kind: str, base: str, connections: int) -> float:
    """Answers per second of a server of its own."""
    with _server(kind, base) as url:
        path, body = _OURS if kind == "ours" else _GUIDES
        with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
            text = json.dumps(json.dumps(body))
            script.write(
                f'wrk.method = "POST"\nwrk.body = {text}\nwrk.headers["Content-Type"] = "application/json"\n'
            )
            script.flush()
            _wrk(url + path, script.name, _WARM_CONNECTIONS, _WARM)
            return _wrk(url + path, script.name, connections, _SECONDS)


def _wrk(url: str, script: str, connections: int, seconds: int) -> float:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s", "-s", script, url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)", said)
    if failed:
        raise RuntimeError(f"{url} did not answer all: {failed.group()}")
    found = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert found is not None
    return float(found.group(1))


@contextlib.contextmanager
def _server(kind: str, base: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as place:
        port = _free_port()
        command, environment = _command(kind, base, port, Path(place))
        log = Path(place, "log")
        with log.open("w") as written:
            process = subprocess.Popen(command, cwd=place, env=environment, stdout=written, stderr=written)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(process, url + ("/readyz" if kind == "ours" else "/openapi.json"), log)
            yield url
        finally:
            process.terminate()
            process.wait(30)


def _command(kind: str, base: str, port: int, place: Path) -> tuple[list[str], dict[str, str]]:
    environment = {
        **os.environ,
        "OPENAI_API_KEY": "none",
        "BENCH_PROVIDER": base,
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        "DSPY_CACHEDIR": str(place),
    }
    if kind in _THREADS:
        application = ["uvicorn", "bench.guide:app", "--port", str(port), "--no-access-log"]
        environment["BENCH_THREADS"] = str(_THREADS[kind])
        return [sys.executable, "-m", *application], environment
    serve = ["serve", "--quiet", "--port", str(port), "--lm", "openai/x", "--base-url", base]
    return [str(Path(sys.executable).with_name("dspex")), *serve], environment


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.1)
    raise RuntimeError(f"{url} was not served:\n{log.read_text()[-2000:]}")


def _free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
