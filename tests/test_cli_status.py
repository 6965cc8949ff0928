"""``dspex status``: what is open in other processes, as a shell sees it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dspex as library
from dspex.cli.status import _latency
from tests.processes import until
from tests.provider import Provider
from tests.shell import SCRIPT, dspex, environment
from tests.terminals import Terminal

SERVICE = """
import dspex, sys
two = {"general": dspex.PoolOptions(workers=1), "second": dspex.PoolOptions(workers=1)}
with dspex.Runtime(pools=two) as runtime:
    runtime.pool("general").execute("echo", {"a": 1})
    print("open", flush=True)
    sys.stdin.read()
"""

ASKS = """
import dspex, sys
lm = dspex.LM("openai/watched", base_url=sys.argv[1], api_key="canary-key")
with dspex.Runtime(lm, pools={"general": dspex.PoolOptions(workers=1)}) as runtime:
    while True:
        runtime.adapter().generate("canary-prompt", signature="question -> answer")
        print("asked", flush=True)
        if not sys.stdin.readline():
            break
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's runtime directory in these tests."""
    folder = tmp_path_factory.mktemp("run")
    folder.chmod(0o700)
    return folder


@pytest.fixture(scope="module")
def service(place: Path) -> Iterator[subprocess.Popen[str]]:
    """A program that has a runtime open."""
    script = place / "shop.py"
    script.write_text(SERVICE)
    program = subprocess.Popen(
        [sys.executable, str(script), "canary-argument"],
        env=environment(XDG_RUNTIME_DIR=str(place), OPENAI_API_KEY="canary-variable"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "open\n"
    yield program
    program.communicate("")


def test_none_is_no_failure(tmp_path: Path) -> None:
    """If this failed, a script could not tell that nothing runs from that asking failed."""
    tmp_path.chmod(0o700)
    # No other place than this one: where a machine has its own, it may hold runtimes of its own.
    ran = dspex("status", "--json", XDG_RUNTIME_DIR=str(tmp_path), TMPDIR=str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    if json.loads(ran.stdout) == {"runtimes": [], "silent": []}:
        ran = dspex("status", XDG_RUNTIME_DIR=str(tmp_path), TMPDIR=str(tmp_path))
        assert (ran.returncode, ran.stdout) == (0, "No runtime of this user is open.\n")


def test_a_runtime_of_another_process(service: subprocess.Popen[str], place: Path) -> None:
    """If this failed, an operator could not see what a service does."""
    ran = dspex("status", XDG_RUNTIME_DIR=str(place))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert f"shop.py  pid {service.pid} · open for " in ran.stdout
    assert "ok 1" in ran.stdout
    assert "general/" in ran.stdout
    assert "second/" in ran.stdout
    assert "canary" not in ran.stdout
    assert not any(line.endswith(" ") for line in ran.stdout.splitlines())


def test_json(service: subprocess.Popen[str], place: Path) -> None:
    """If this failed, a script could not read how many calls wait."""
    ran = dspex("status", "--json", XDG_RUNTIME_DIR=str(place))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "canary" not in ran.stdout
    found = [runtime for runtime in json.loads(ran.stdout)["runtimes"] if runtime["pid"] == service.pid]
    assert [(runtime["program"], set(runtime["stats"]["pools"])) for runtime in found] == [
        ("shop.py", {"general", "isolated", "second"})
    ]
    general = found[0]["stats"]["pools"]["general"]
    assert general["queued"] == 0
    assert general["counters"] == {"ok": 1}
    (worker,) = general["workers"]
    assert (worker["state"], worker["in_flight"], worker["done"]) == ("ready", 0, 1)
    assert worker["rss"] > 1_000_000


def test_a_runtime_that_does_not_answer_is_exit_code_1(service: subprocess.Popen[str], place: Path) -> None:
    """If this failed, a watchdog script would take a service that hangs for a healthy one."""
    service.send_signal(signal.SIGSTOP)
    try:
        ran = dspex("status", XDG_RUNTIME_DIR=str(place))
    finally:
        service.send_signal(signal.SIGCONT)
    assert ran.returncode == 1
    assert f"The runtime of process {service.pid} does not answer" in ran.stdout


def test_a_runtime_that_was_killed_is_not_listed(place: Path, tmp_path: Path) -> None:
    """If this failed, what a crash left would be shown as running."""
    tmp_path.chmod(0o700)
    script = tmp_path / "killed.py"
    script.write_text(SERVICE)
    program = subprocess.Popen(
        [sys.executable, str(script)],
        env=environment(XDG_RUNTIME_DIR=str(tmp_path)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "open\n"
    program.kill()
    program.communicate()
    (left,) = (tmp_path / "dspex").iterdir()
    os.utime(left, (0, 0))
    ran = dspex("status", XDG_RUNTIME_DIR=str(tmp_path))
    assert f"pid {program.pid}" not in ran.stdout
    assert f"process {program.pid}" not in ran.stdout
    assert not left.exists()


@pytest.mark.parametrize("json_lines", [True, False])
def test_watching_ends_cleanly_with_ctrl_c(
    service: subprocess.Popen[str], place: Path, tmp_path: Path, json_lines: bool
) -> None:
    """If this failed, the one way to end it would show a traceback, or fail a script."""
    output = tmp_path / "output"
    with output.open("w") as file:
        watching = subprocess.Popen(
            [*SCRIPT, "status", "--watch", *(["--json"] if json_lines else [])],
            env=environment(XDG_RUNTIME_DIR=str(place)),
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
        )
        until(lambda: output.read_text().count("shop.py") >= 2, 30)
        watching.send_signal(signal.SIGINT)
        _, errors = watching.communicate(timeout=20)
    assert (watching.returncode, errors.count("\n")) == (130, 1)
    assert "SIGINT" in errors
    if json_lines:
        for line in output.read_text().splitlines():
            assert service.pid in [runtime["pid"] for runtime in json.loads(line)["runtimes"]]


def test_what_was_spent_of_budgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, an operator would learn that a budget is spent when customers call him."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    budgets = {"day": library.Budget(tokens=100_000, cost=2.5)}
    tenants = {f"t{number:02}": library.Budget(tokens=1000 + number) for number in range(25)}
    settings = library.Settings(file=False, budgets=budgets, tenant_budgets=tenants)
    with Provider() as provider:
        lm = library.LM("openai/gpt-4o-mini", api_key="k", base_url=provider.base_url)
        one = {"general": library.PoolOptions(workers=1)}
        with library.Runtime(lm, pools=one, settings=settings) as runtime:
            adapter = runtime.adapter()
            asked = [adapter.generate("q", tenant=name) for name in tenants]
            lines = dspex("status", XDG_RUNTIME_DIR=str(tmp_path)).stdout.splitlines()
            told = json.loads(dspex("status", "--json", XDG_RUNTIME_DIR=str(tmp_path)).stdout)
            stats = {(budget.scope, budget.name): budget for budget in runtime.stats().budgets}
    tokens = sum(answer.usage.total_tokens for answer in asked)
    day = next(line.split() for line in lines if line.startswith("day "))
    assert day[1:4] == [f"{tokens:,}", "of", "100,000"]
    assert day[5:] == ["of", "$2.5"]
    shown = [line.split()[1] for line in lines if line.startswith("tenant ")]
    assert shown == [f"t{number:02}" for number in range(19)], "those of which most is used"
    assert any(line.startswith("and 6 more") for line in lines)
    (found,) = [one for one in told["runtimes"] if one["pid"] == os.getpid()]
    assert len(found["stats"]["budgets"]) == len(stats) == 26
    (day_told,) = [one for one in found["stats"]["budgets"] if one["scope"] == "day"]
    assert (day_told["tokens"], day_told["reserved_tokens"]) == (tokens, 0)
    assert day_told["limit"] == {"tokens": 100_000, "cost": 2.5}


@pytest.fixture
def asked(place: Path) -> Iterator[subprocess.Popen[str]]:
    """A program whose module was called, and is called again for each line that it reads."""
    script = place / "asks.py"
    script.write_text(ASKS)
    with Provider() as provider:
        program = subprocess.Popen(
            [sys.executable, str(script), provider.base_url],
            env=environment(XDG_RUNTIME_DIR=str(place)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert program.stdout is not None
        assert program.stdout.readline() == "asked\n"
        yield program
        program.communicate("")


def _ask(program: subprocess.Popen[str]) -> None:
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write("again\n")
    program.stdin.flush()
    assert program.stdout.readline() == "asked\n"


def test_insights_are_live_at_a_terminal(asked: subprocess.Popen[str], place: Path) -> None:
    """If this failed, who watches a service would look at a picture of it."""
    with Terminal("status", "--watch", XDG_RUNTIME_DIR=str(place), COLUMNS="250", LINES="500") as terminal:
        # Others of this user may be open, which have rows of their own.
        terminal.shows("watched")
        assert "canary" not in terminal.seen
        _ask(asked)
        _ask(asked)

        def calls() -> list[str]:
            terminal.shows("LAST 5 MIN", since=len(terminal.seen))
            return re.findall(r"dspy\.Predict +openai/watched +(\d+) ", terminal.seen)

        until(lambda: "3" in calls(), 60)
        assert calls()[0] == "1"
        terminal.type("\x03")
        assert terminal.ends() == 130
        assert "Traceback" not in terminal.seen


def test_insights_are_live_in_a_pipe(asked: subprocess.Popen[str], place: Path) -> None:
    """If this failed, a script that follows a service would read the same figures for ever."""
    watching = subprocess.Popen(
        [*SCRIPT, "status", "--watch", "--json"],
        env=environment(XDG_RUNTIME_DIR=str(place)),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None

    def calls() -> int:
        assert watching.stdout is not None
        for runtime in json.loads(watching.stdout.readline())["runtimes"]:
            if runtime["pid"] == asked.pid:
                (insight,) = runtime["insights"]
                assert insight["module"] == "dspy.Predict"
                assert (insight["errors"], insight["cache_hits"]) == ({}, 0)
                assert insight["p50"] > 0
                return int(insight["calls"])
        return 0

    try:
        assert calls() == 1
        _ask(asked)
        until(lambda: calls() == 2, 60)
    finally:
        watching.send_signal(signal.SIGINT)
        watching.communicate(timeout=60)
    assert watching.returncode == 130


def test_insights_are_in_the_text_of_a_pipe(asked: subprocess.Popen[str], place: Path) -> None:
    """If this failed, `dspex status | grep` would find nothing of what a service does."""
    _ask(asked)
    ran = dspex("status", XDG_RUNTIME_DIR=str(place))
    rows = [line.split()[:3] for line in ran.stdout.splitlines()]
    assert ["dspy.Predict", "openai/watched", "2"] in rows
    assert "canary" not in ran.stdout
    assert "\x1b" not in ran.stdout


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, ""),
        (0.00196, "1.96 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (8.24, "8.2 s"),
        (3600.0, "3,600.0 s"),
    ],
)
def test_latencies_are_legible(seconds: float | None, shown: str) -> None:
    """If this failed, eight seconds would be shown as 8.24e+03 ms."""
    assert _latency(seconds) == shown
