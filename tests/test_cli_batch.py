"""``dspex batch`` as a shell runs it, against a provider."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspex.batch import journal as journals
from tests.processes import until
from tests.provider import Provider, Reply, Request, delayed, echo, fault
from tests.shell import SCRIPT, environment
from tests.shell import dspex as command

SIGNATURE = "question -> answer"


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as opened:
        yield opened


def batch(provider: Provider, source: Path, out: Path, *options: str) -> tuple[str, ...]:
    lm = ("--lm", "openai/x", "--base-url", provider.base_url)
    return ("batch", str(source), str(out), "Predict", SIGNATURE, *lm, *options)


def test_a_row_that_fails_is_told_and_asked_again(provider: Provider, tmp_path: Path) -> None:
    """If this failed, a script would take a file with holes for a whole one, or pay twice to fill them."""

    def bad_day(request: Request) -> Reply:
        return fault(400) if "three" in request.prompt.user else echo()

    provider.reply = bad_day
    source, out = tmp_path / "in.csv", tmp_path / "out.jsonl"
    source.write_bytes(b'\xef\xbb\xbfid,Frage\r\n1,"one\r\nline, two"\r\n2,zwei \xe2\x98\x95\r\n3,three\r\n')
    ran = command(*batch(provider, source, out, "--map", "Frage=question"))
    assert (ran.returncode, ran.stdout) == (1, ""), ran.stderr
    assert "--retry-failed" in ran.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["1", "2", "3"]
    assert rows[1] == {"id": "2", "Frage": "zwei ☕", "answer": "zwei ☕"}
    assert rows[2]["error"]["code"] == "lm_invalid_request"

    provider.reply = lambda _: echo()
    asked = len(provider.requests)
    ran = command(*batch(provider, source, out, "--map", "Frage=question", "--retry-failed", "--json"))
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert (told["ok"], told["failed"]) == (3, 0)
    assert len(provider.requests) == asked + 1
    assert [json.loads(line)["answer"] for line in out.read_text().splitlines()][2] == "three"


def test_ctrl_c_lets_end_what_runs_and_says_how_to_go_on(provider: Provider, tmp_path: Path) -> None:
    """If this failed, Ctrl-C would cost answers that are paid for, or nobody would know how to go on."""
    provider.reply = lambda _: delayed(0.3, echo())
    source, out = tmp_path / "in.jsonl", tmp_path / "out.csv"
    source.write_text("".join(f'{{"question": "row {number}"}}\n' for number in range(40)))
    asked = batch(provider, source, out, "--concurrency", "4")
    process = subprocess.Popen(
        [*SCRIPT, *asked], env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        until(lambda: len(provider.requests) >= 6 or process.poll() is not None, 60)
        os.kill(process.pid, signal.SIGINT)
        printed, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert printed == ""
    assert "run the same command again" in said
    assert "Traceback" not in said
    journal = tmp_path / "out.csv.journal"
    recorded = {record.index for record in journals.read(journal)}
    assert len(recorded) == len(provider.requests) < 40, "what was asked was let end"
    assert not out.exists()
    provider.reply = lambda _: echo()
    ran = command(*asked)
    assert ran.returncode == 0, ran.stderr
    assert len(provider.requests) == 40
    with out.open(newline="") as file:
        assert [row["answer"] for row in csv.DictReader(file)] == [f"row {number}" for number in range(40)]


def test_a_pipe_gets_the_rows_and_nothing_else(provider: Provider, tmp_path: Path) -> None:
    """If this failed, what reads the output would find progress or messages among its rows."""
    lm = ("--lm", "openai/x", "--base-url", provider.base_url)
    ran = subprocess.run(
        [*SCRIPT, "batch", "-", "-", "Predict", SIGNATURE, *lm, "--format", "jsonl", "--limit", "2"],
        input="".join(f'{{"question": "row {number}"}}\n' for number in range(5)),
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert [json.loads(line)["answer"] for line in ran.stdout.splitlines()] == ["row 0", "row 1"]
    assert len(provider.requests) == 2
    assert list(tmp_path.iterdir()) == []
