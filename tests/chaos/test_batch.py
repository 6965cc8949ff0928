"""Batches whose process, workers, disk and provider fail."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import dspex
from dspex.batch import journal as journals
from tests.processes import until
from tests.provider import Provider, Reply, Request, delayed, echo, fault

pytestmark = pytest.mark.chaos

_ROWS, _KILLS = 2_000, 10
SIGNATURE = "question -> answer"


@pytest.fixture
def provider() -> Iterator[Provider]:
    """One that keeps what it was asked."""
    with Provider() as opened:
        yield opened


def rows_of(provider: Provider, since: int = 0) -> list[int]:
    """The rows that the provider was asked, from one request on."""
    asked = [re.search(r"row (\d+)", request.prompt.user) for request in list(provider.requests)[since:]]
    return [int(found[1]) for found in asked if found]


def recorded(journal: Path) -> set[int]:
    """The rows that have their record, read while it is written."""
    if not journal.exists() or not journal.stat().st_size:
        return set()
    return {record.index for record in journals.read(journal)}


def started(folder: Path, provider: Provider, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from dspex.cli import main; main()", "batch", "in.csv", "out.csv"]
    lm = ["--lm", "openai/x", "--base-url", provider.base_url]
    return subprocess.Popen(
        [*command, "Predict", SIGNATURE, *lm, *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def write_rows(folder: Path, count: int) -> None:
    with (folder / "in.csv").open("w", newline="", encoding="utf-8") as file:
        written = csv.writer(file)
        written.writerow(["id", "question"])
        written.writerows([number, f"row {number}"] for number in range(count))


def read_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "out.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_batch_that_is_killed_ten_times(provider: Provider, tmp_path: Path) -> None:
    """If this failed, a crash would cost rows, or money for rows that were answered."""
    provider.reply = lambda _: delayed(0.02, echo())
    write_rows(tmp_path, _ROWS)
    journal = tmp_path / "out.csv.journal"
    for _ in range(_KILLS):
        before, since = recorded(journal), len(provider.requests)
        wanted = len(before) + random.randint(20, 150)
        with started(tmp_path, provider) as process:
            until(lambda: len(recorded(journal)) >= wanted or process.poll() is not None, 60)  # noqa: B023
            assert process.poll() is None, process.stderr and process.stderr.read()
            os.killpg(process.pid, signal.SIGKILL)
        assert not before & set(rows_of(provider, since)), "what is recorded is not asked again"
        assert not (tmp_path / "out.csv").exists(), "the output appears whole"
    before, since = recorded(journal), len(provider.requests)
    with started(tmp_path, provider) as process:
        _, said = process.communicate(timeout=100)
    assert process.returncode == 0, said
    assert not before & set(rows_of(provider, since))
    found = read_rows(tmp_path)
    assert [(row["id"], row["answer"], row["error"]) for row in found] == [
        (str(number), f"row {number}", "") for number in range(_ROWS)
    ]
    assert max(Counter(rows_of(provider)).values()) <= 1 + _KILLS


@pytest.fixture
def runtime(provider: Provider) -> Iterator[dspex.Runtime]:
    lm = dspex.LM("openai/x", base_url=provider.base_url, retry=dspex.Retry(attempts=2, wait=0.01))
    with dspex.Runtime(lm, pools={"general": dspex.PoolOptions(workers=2)}) as opened:
        yield opened


def test_workers_that_are_killed_cost_no_row(
    provider: Provider, runtime: dspex.Runtime, tmp_path: Path
) -> None:
    """If this failed, one worker's death would be 64 failed rows."""
    provider.reply = lambda _: delayed(0.05, echo())
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.4):
            workers = runtime.stats().pools["general"].workers
            if workers:
                os.kill(random.choice(workers).pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        journal = tmp_path / "journal"
        questions = [f"row {number}" for number in range(_ROWS)]
        outcomes = runtime.adapter().batch(
            questions, signature=SIGNATURE, journal=journal, concurrency=32, retries=5
        )
    finally:
        over.set()
        killer.join()
    assert [outcome.response and outcome.response.answer for outcome in outcomes] == questions
    assert len(list(journals.read(journal))) == _ROWS


def test_a_provider_that_fails_at_random_costs_no_row(provider: Provider, runtime: dspex.Runtime) -> None:
    """If this failed, an ordinary bad day of a provider would leave holes in the output."""

    def reply(_: Request) -> Reply:
        dice = random.random()
        if dice < 0.1:
            return fault(429, retry_after=0.02)
        return fault(500) if dice < 0.2 else echo()

    provider.reply = reply
    questions = [f"row {number}" for number in range(_ROWS)]
    told: list[dspex.BatchProgress] = []
    outcomes = runtime.adapter().batch(
        questions, signature=SIGNATURE, retries=20, progress=told.append, timeout=None
    )
    assert [outcome.response and outcome.response.answer for outcome in outcomes] == questions
    assert told[-1].ok == _ROWS


_FULL = """
import json, pathlib, sys, time
import dspex
from tests.provider import Provider

folder = pathlib.Path(sys.argv[1])
questions = [f"row {number} " + "x" * 2000 for number in range(2000)]

with Provider() as provider, dspex.Runtime(dspex.LM("openai/x", base_url=provider.base_url)) as runtime:
    adapter = runtime.adapter()
    try:
        adapter.batch(questions, signature="question -> answer", journal=folder / "small" / "journal")
        code = "none"
    except dspex.StoreError as error:
        code = error.code
    kept = (folder / "small" / "journal").read_bytes()
    (folder / "large").mkdir()
    (folder / "large" / "journal").write_bytes(kept)
    # What was on its way when the disk was full was stopped, and may still reach the provider.
    while provider.in_flight or any(worker.in_flight for worker in runtime.stats().pools["general"].workers):
        time.sleep(0.05)
    asked = len(provider.requests)
    outcomes = adapter.batch(questions, signature="question -> answer", journal=folder / "large" / "journal")
    print(json.dumps({
        "code": code,
        "recorded": sum(outcome.from_journal for outcome in outcomes),
        "ok": sum(outcome.ok for outcome in outcomes),
        "asked": len(provider.requests) - asked,
    }))
"""


def test_a_full_disk_loses_nothing_that_is_recorded(tmp_path: Path) -> None:
    """If this failed, a disk that fills up in the night would cost all that was answered before."""
    script = tmp_path / "script.py"
    script.write_text(_FULL)
    (tmp_path / "small").mkdir()
    mounted = f"mount -t tmpfs -o size=1m small {tmp_path}/small && exec {sys.executable} {script} {tmp_path}"
    ran = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mounted],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=110,
        check=False,
    )
    if "unshare" in ran.stderr or "mount" in ran.stderr:
        pytest.skip("a file system of one's own cannot be made here")
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["code"] == "store_error"
    assert found["recorded"] > 50
    assert found["ok"] == 2000
    assert found["asked"] == 2000 - found["recorded"]
