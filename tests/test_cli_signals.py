"""Signals that end the ``dspex`` command: what it says, its exit code, and that nothing is left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.namespaces import AS_FIRST, need
from tests.processes import alive, descendants, until
from tests.provider import Provider, hanging
from tests.shell import SCRIPT, environment

ENDING = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider(lambda _: hanging()) as running:
        yield running


def start(*arguments: str, prefix: tuple[str, ...] = (), **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*prefix, *SCRIPT, *arguments],
        env=environment(OPENAI_API_KEY="key", **variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def question(provider: Provider, *more: str) -> tuple[str, ...]:
    """A command line whose answer never comes."""
    return ("run", "Predict", "q -> a", "x", "--lm", "openai/x", "--base-url", provider.base_url, *more)


def ends(command: subprocess.Popen[str], code: int, family: list[int]) -> str:
    """What it says on standard error, once it and all that it started have ended."""
    output, errors = command.communicate(timeout=30)
    assert (command.returncode, output) == (code, ""), errors
    assert "Traceback" not in errors
    until(lambda: not any(alive(pid) for pid in family))
    return errors


@pytest.mark.parametrize(("number", "code"), ENDING)
def test_a_signal_ends_a_question(provider: Provider, number: signal.Signals, code: int) -> None:
    """If this failed, a stopped command would leave a paid request, or a shell take it for done."""
    command = start(*question(provider))
    until(lambda: provider.in_flight == 1, 60)
    family = descendants(command.pid)
    assert family
    command.send_signal(number)
    assert ends(command, code, family) == f"cancelled stopped by {number.name}\n"
    until(lambda: provider.in_flight == 0)


def test_json_says_it_as_json(provider: Provider) -> None:
    """If this failed, a program that reads standard error could not tell being stopped from a crash."""
    command = start(*question(provider, "--json"))
    until(lambda: provider.in_flight == 1, 60)
    family = descendants(command.pid)
    command.terminate()
    assert json.loads(ends(command, 143, family))["error"]["code"] == "cancelled"
    until(lambda: provider.in_flight == 0)


def test_two_signals_end_it_at_once(provider: Provider) -> None:
    """If this failed, a second Ctrl-C would break off the tidy end with a traceback, or leave workers."""
    command = start(*question(provider))
    until(lambda: provider.in_flight == 1, 60)
    family = descendants(command.pid)
    command.send_signal(signal.SIGINT)
    command.send_signal(signal.SIGTERM)
    output, errors = command.communicate(timeout=30)
    assert command.returncode in {130, 143}
    assert output == ""
    assert "Traceback" not in errors
    until(lambda: not any(alive(pid) for pid in family))
    until(lambda: provider.in_flight == 0)


def test_nohup_is_honoured(provider: Provider) -> None:
    """If this failed, a question that was asked with nohup would end with its terminal."""
    command = start(*question(provider, "--timeout", "3600"), prefix=("nohup",))
    until(lambda: provider.in_flight == 1, 60)
    family = descendants(command.pid)
    command.send_signal(signal.SIGHUP)
    command.terminate()
    assert "SIGTERM" in ends(command, 143, family)
    until(lambda: provider.in_flight == 0)


@pytest.mark.parametrize(("number", "code"), ENDING)
def test_a_signal_ends_the_first_process_of_a_container(
    provider: Provider, number: signal.Signals, code: int
) -> None:
    """If this failed, `docker stop` would wait for ten seconds, and then kill."""
    need(AS_FIRST)
    command = start(*question(provider), prefix=tuple(AS_FIRST))
    until(lambda: provider.in_flight == 1, 60)
    family = descendants(command.pid)
    (first,) = psutil.Process(command.pid).children()
    first.send_signal(number)
    assert number.name in ends(command, code, family)
    until(lambda: provider.in_flight == 0)


@pytest.mark.parametrize(("number", "code"), ENDING)
def test_a_signal_ends_the_doctor(number: signal.Signals, code: int, tmp_path: Path) -> None:
    """If this failed, a doctor that was sent away would leave the worker that it tried."""
    command = start("doctor", TMPDIR=str(tmp_path))
    until(lambda: any("trial" in " ".join(line) for line in lines_of(command.pid)), 60)
    family = descendants(command.pid)
    command.send_signal(number)
    assert number.name in ends(command, code, family)
    assert not list(tmp_path.iterdir())


def lines_of(pid: int) -> list[list[str]]:
    """The command lines of what a process has started."""
    found = []
    for child in descendants(pid):
        try:
            found.append(psutil.Process(child).cmdline())
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize(("number", "code"), ENDING)
def test_a_signal_ends_watching(number: signal.Signals, code: int, tmp_path: Path) -> None:
    """If this failed, a terminal that is closed would leave a watcher behind."""
    tmp_path.chmod(0o700)
    command = start("status", "--watch", "--json", XDG_RUNTIME_DIR=str(tmp_path))
    assert command.stdout is not None
    assert command.stdout.readline()
    command.send_signal(number)
    _, errors = command.communicate(timeout=30)
    assert command.returncode == code
    assert json.loads(errors)["error"]["details"] == {"signal": number.name}


def test_a_signal_while_it_is_imported() -> None:
    """If this failed, an early Ctrl-C would show where in an import it came."""
    code = "import os, signal, dspex.cli.signals as s; s.leave_at_once(); os.kill(os.getpid(), signal.SIGINT)"
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (130, "")
