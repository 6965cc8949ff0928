"""The ends of the command line: output that nobody takes, and Ctrl-C before anything has begun."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.provider import Provider, fields
from tests.shell import SCRIPT, environment


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider(lambda _: fields(answer="Paris")) as running:
        yield running


def command(provider: Provider, kind: str) -> list[str]:
    """A command that prints something."""
    if kind == "run":
        return [
            "run",
            "Predict",
            "question -> answer",
            "?",
            "--lm",
            "openai/x",
            "--base-url",
            provider.base_url,
        ]
    return kind.split()


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("kind", ["run", "modules", "modules --json", "run --help"])
def test_a_full_disk_is_one_line(provider: Provider, kind: str, unbuffered: str) -> None:
    """If this failed, a script that fills the disk would get a traceback, or take nothing for an answer."""
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [*SCRIPT, *command(provider, kind)],
            env=environment(PYTHONUNBUFFERED=unbuffered),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert ran.returncode == 1
    lines = ran.stderr.splitlines()
    assert lines.pop() == "dspex: the output cannot be written: No space left on device"
    assert all("tokens" in line for line in lines)


@pytest.mark.parametrize("kind", ["run", "modules", "run --help"])
def test_a_reader_that_has_seen_enough_is_no_news(provider: Provider, kind: str) -> None:
    """If this failed, `dspex … | head` would end in a traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run(
        [*SCRIPT, *command(provider, kind)],
        env=environment(),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert ran.returncode == 1
    assert all("tokens" in line for line in ran.stderr.splitlines())


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_descriptors_are_no_news(provider: Provider, closed: str) -> None:
    """If this failed, a job that was started without standard input would end in an abort."""
    provider.reply = lambda _: fields(answer="Paris")
    ran = shell(closed, *command(provider, "run"))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == ("" if ">&- " in f"{closed} ".replace("2>", "") else "Paris\n")
    assert "Traceback" not in ran.stderr


def test_a_prompt_from_a_closed_standard_input_is_refused(provider: Provider) -> None:
    """If this failed, a script would get a traceback for its mistake."""
    ran = shell("<&-", "run", "Predict", "question -> answer", "-", "--lm", "openai/x")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("invalid_input '-' reads standard input, which is closed")


def shell(redirections: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command with redirections of a shell."""
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" "$@" {redirections}', *SCRIPT, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_character_that_the_locale_does_not_have(provider: Provider) -> None:
    """If this failed, an answer would be lost in a container without a locale."""
    provider.reply = lambda _: fields(answer="Zoë ✓")
    ran = subprocess.run(
        [*SCRIPT, *command(provider, "run")],
        env=environment(PYTHONIOENCODING="ascii"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, "Zo\\xeb \\u2713\n")


@pytest.mark.parametrize("module", ["dspex.cli.app", "typer", "dspex.adapter.runtime"])
def test_ctrl_c_while_it_imports_is_quiet(module: str) -> None:
    """If this failed, who changes his mind at once would be shown a traceback."""
    code = f"""
import os, signal, sys
class Impatient:
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Impatient())
from dspex.cli import main
main()
"""
    ran = subprocess.run(
        [sys.executable, "-c", code, "run", "Predict", "q -> a", "x", "--lm", "openai/x"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "")
