"""The embedded model streams for real, and answers the rows of a file."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import dspex
from dspex.batch import journal as journals
from tests.processes import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
#: Seconds: one thread writes some eight tokens each.
PATIENCE = 400.0
_ROWS = 20


@pytest.fixture(scope="module")
def adapter() -> Iterator[dspex.DSPyAdapter]:
    pytest.importorskip("xllamacpp")
    with dspex.Runtime("local", pools={"general": dspex.PoolOptions(workers=1)}) as runtime:
        yield runtime.adapter(timeout=PATIENCE)


def test_each_field_comes_in_pieces(adapter: dspex.DSPyAdapter) -> None:
    """If this failed, streams would be of scripted models only."""
    deltas: dict[str, list[str]] = {}
    final = None
    with adapter.stream(
        "Why is the sky blue? One sentence.", module="ChainOfThought", signature="question -> answer"
    ) as stream:
        for event in stream:
            if isinstance(event, dspex.Delta):
                assert final is None
                deltas.setdefault(event.field, []).append(event.text)
            elif isinstance(event, dspex.Final):
                final = event.response
    assert final is not None
    assert {field: "".join(texts) for field, texts in deltas.items()} == final.outputs
    assert all(len(texts) > 1 for texts in deltas.values())


def test_who_leaves_frees_the_model(adapter: dspex.DSPyAdapter) -> None:
    """If this failed, the model would go on writing for somebody who is gone, and the next would wait."""
    for _ in range(4):  # more than it answers side by side
        with adapter.stream("Count from 1 to 500, in words.", max_tokens=1000) as stream:
            assert next(text for text in stream.text_stream())
    answer = adapter.generate("What is the capital of France?", signature="question -> answer")
    assert "Paris" in answer.answer


def test_the_rows_of_a_file(tmp_path: Path) -> None:
    """If this failed, twenty rows could not be answered on this machine alone, or not after Ctrl-C."""
    pytest.importorskip("xllamacpp")
    with (tmp_path / "in.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "text"])
        rows.writerows([number, f"I {'love' if number % 2 else 'hate'} it."] for number in range(_ROWS))
    command = [sys.executable, "-c", "from dspex.cli import main; main()", "batch", "in.csv", "out.csv"]
    command += [
        "Predict",
        "text -> mood: Literal['good', 'bad']",
        "--lm",
        "local",
        "--timeout",
        str(PATIENCE),
    ]
    journal = tmp_path / "out.csv.journal"

    def recorded() -> list[int]:
        if not journal.exists() or not journal.stat().st_size:
            return []
        return [record.index for record in journals.read(journal)]

    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as first:
        until(lambda: len(recorded()) >= 3 or first.poll() is not None, 600)
        os.kill(first.pid, signal.SIGINT)
        _, said = first.communicate(timeout=PATIENCE)
    assert first.returncode != 0, said
    before = recorded()
    assert 3 <= len(before) < _ROWS
    second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=800, check=False)
    assert second.returncode == 0, second.stderr
    assert Counter(recorded()) == Counter(range(_ROWS))
    assert recorded()[: len(before)] == before
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [row["id"] for row in found] == [str(number) for number in range(_ROWS)]
    assert [row["mood"] for row in found] == ["good" if number % 2 else "bad" for number in range(_ROWS)]
    assert all(json.loads(row.get("error") or "null") is None for row in found)
