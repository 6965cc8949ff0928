"""The guide to scripts and jobs: a script, a job of cron's, Celery tasks, each run as its reader would."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

import dspex
from tests.processes import alive, descendants, until
from tests.provider import Provider, Reply, Request, echo, fault, hanging, sequence
from tests.servers import EXAMPLES, model


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


def start(provider: Provider, example: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(EXAMPLES / example), *map(str, arguments)],
        env={**os.environ, **model(provider)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(provider: Provider, example: str, *arguments: object) -> tuple[int, str, str]:
    """Its exit status, standard output and standard error."""
    process = start(provider, example, *arguments)
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    file = tmp_path / "questions.txt"
    file.write_text("one\ntwo\nthree\n")
    return file


def test_a_script(provider: Provider, questions: Path) -> None:
    """If this failed, a script would lose a line, or tell its caller nothing by its exit."""
    assert run(provider, "script.py", questions) == (0, "one\ntwo\nthree\n", "")
    provider.reply = sequence(echo(), fault(401), echo())
    status, output, errors = run(provider, "script.py", questions)
    assert (status, output) == (1, "one\nthree\n")
    assert errors.startswith("two: lm_auth: ")
    assert run(provider, "script.py", questions.with_name("none"))[0] == 2


def test_ctrl_c_in_a_script(provider: Provider, questions: Path) -> None:
    """If this failed, Ctrl-C would leave the work running, or a screen full of frames."""
    provider.reply = lambda _: hanging()
    process = start(provider, "script.py", questions)
    until(lambda: provider.in_flight)
    family = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (130, "", "")
    until(lambda: provider.disconnects == 1 and not any(alive(pid) for pid in family))


def test_a_nightly_job(provider: Provider, questions: Path) -> None:
    """If this failed, a job would run over its time, twice at once, or do again what was done."""

    def reply(request: Request) -> Reply:
        return hanging() if "two" in request.prompt.user else echo()

    provider.reply = reply
    answers, log = questions.with_name("answers.jsonl"), questions.with_name("answers.log")

    with answers.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as another run would hold it
        assert run(provider, "nightly.py", questions, answers) == (os.EX_TEMPFAIL, "", "")
    assert run(provider, "nightly.py", questions, answers, "--seconds", 3) == (1, "", "")
    assert provider.disconnects == 1, "the work has stopped"
    assert "the job's 3 s are over" in log.read_text()

    provider.reply = lambda _: echo()
    asked = len(provider.requests)
    assert run(provider, "nightly.py", questions, answers) == (0, "", "")
    assert len(provider.requests) == asked + 1
    found = [json.loads(line)["answer"] for line in answers.read_text().splitlines()]
    assert sorted(found) == ["one", "three", "two"]


CONFIGURED = """
from celery_app import app, answer
app.conf.update({settings})
"""


class Worker:
    """Celery's own worker with two forked processes, on a broker of files."""

    def __init__(self, folder: Path, provider: Provider) -> None:
        for name in ("queue", "results"):
            (folder / name).mkdir()
        settings: dict[str, Any] = {
            "broker_url": "filesystem://",
            "broker_transport_options": dict.fromkeys(
                ("data_folder_in", "data_folder_out"), str(folder / "queue")
            )
            | {"control_folder": str(folder / "control"), "polling_interval": 0.05},
            "result_backend": f"file://{folder / 'results'}",
        }
        (folder / "there.py").write_text(CONFIGURED.format(settings=settings))
        self.app = Celery("answers")
        self.app.conf.update(settings)
        self.log = folder / "log"
        path = os.pathsep.join([str(folder), str(EXAMPLES)])
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "there", "worker", "--pool", "prefork", "-c", "2"],
                cwd=folder,
                env={**os.environ, **model(provider), "PYTHONPATH": path},
                stdout=file,
                stderr=file,
            )

    def ask(self, question: str, **options: Any) -> Any:
        return self.app.send_task("celery_app.answer", [question], **options)


@pytest.fixture
def worker(tmp_path: Path, provider: Provider) -> Iterator[Worker]:
    running = Worker(tmp_path, provider)
    yield running
    family = descendants(running.process.pid)
    running.process.kill()
    running.process.wait()
    until(lambda: not any(alive(pid) for pid in family))


def test_celery(worker: Worker, provider: Provider) -> None:
    """If this failed, tasks in forked processes would hang, share workers, or leave them behind."""
    results = [worker.ask(f"question {number}") for number in range(6)]
    assert [result.get(timeout=60) for result in results] == [f"question {number}" for number in range(6)]

    # A limit of Celery's stops the work, too: the soft one by an exception, the hard one by a kill. One of
    # the two processes may not have been asked yet: it opens its runtime first, and has time for that.
    provider.reply = lambda _: hanging()
    soft = worker.ask("soft", soft_time_limit=5)
    with pytest.raises(SoftTimeLimitExceeded):
        soft.get(timeout=60)
    until(lambda: provider.disconnects == 1, 30)
    worker.ask("hard", time_limit=5)
    until(lambda: provider.disconnects == 2, 30)

    provider.reply = sequence(fault(401), echo())
    with pytest.raises(dspex.LMAuth):
        worker.ask("refused").get(timeout=30)
    assert worker.ask("again").get(timeout=60) == "again"

    family = descendants(worker.process.pid)
    worker.process.terminate()
    assert worker.process.wait(30) == 0, worker.log.read_text()
    until(lambda: not any(alive(pid) for pid in family))
