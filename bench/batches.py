"""(m) Batches: against ``dspy.Parallel``, what the journal costs, and memory over many rows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.measure import Row, fresh, provider, row

SIGNATURE = "question -> answer"
_ROWS, _THREADS = 5_000, 64
_MANY = 200_000
_MEGABYTE = 2**20


def main(base: str, how: str, rows: int) -> float:
    """Rows per second, in a process of its own."""
    questions = [f"question {number}" for number in range(rows)]
    if how == "parallel":
        return _parallel(base, questions)
    if how == "memory":
        return _memory(rows)
    import dspex

    with (
        tempfile.TemporaryDirectory() as folder,
        dspex.Runtime(dspex.LM("openai/x", base_url=base)) as runtime,
    ):
        adapter = runtime.adapter(timeout=120.0)
        adapter.batch(questions[:200], signature=SIGNATURE)
        journal = Path(folder) / "journal" if how == "journal" else None
        started = time.perf_counter()
        outcomes = adapter.batch(questions, signature=SIGNATURE, journal=journal)
        seconds = time.perf_counter() - started
        assert all(outcome.ok for outcome in outcomes)
    return rows / seconds


def _parallel(base: str, questions: list[str]) -> float:
    import dspy

    # As fast as DSPy does it: its own HTTP engine, no cache, no history.
    lm = dspy.LM("openai/x", api_base=base, api_key="k", engine="lm15", cache=False)
    dspy.configure(lm=lm, disable_history=True, max_trace_size=0, warn_on_type_mismatch=False)
    predict = dspy.Predict(SIGNATURE)
    parallel = dspy.Parallel(num_threads=_THREADS, disable_progress_bar=True)
    pairs = [(predict, dspy.Example(question=question).with_inputs("question")) for question in questions]
    parallel(pairs[:200])
    started = time.perf_counter()
    found = parallel(pairs)
    seconds = time.perf_counter() - started
    assert all(prediction is not None for prediction in found)
    return len(questions) / seconds


def _memory(rows: int) -> float:
    """Bytes by which this process grows from the first tenth of the rows to the last."""
    import os

    import psutil

    import dspex

    lm = dspex.LM("bench/instant", engine="bench.instant:AsyncInstant")
    settings = dspex.Settings(allow_modules=("bench",))

    def questions() -> Iterator[dict[str, Any]]:
        for number in range(rows):
            yield {"question": f"question {number}"}

    early = most = 0
    with tempfile.TemporaryDirectory() as folder, dspex.Runtime(lm, settings=settings) as runtime:
        adapter = runtime.adapter(timeout=120.0)
        journal = Path(folder) / "journal"
        with adapter.batch(questions(), signature=SIGNATURE, as_completed=True, journal=journal) as outcomes:
            for number, outcome in enumerate(outcomes):
                assert outcome.ok
                if number % 1000 == 0:
                    size = psutil.Process(os.getpid()).memory_info().rss
                    early = size if number <= rows // 10 else early
                    most = max(most, size)
    return most - early


def rows(rounds: int) -> list[Row]:
    """Twice as fast as ``dspy.Parallel``; the journal costs 5 % at most; memory stays flat within 30 MB."""
    found: dict[str, list[float]] = {"plain": [], "journal": [], "parallel": []}
    with provider(0.2) as base:
        for _ in range(rounds):
            for how, speeds in found.items():
                speeds.append(fresh("bench.batches", base=base, how=how, rows=_ROWS))
    grown = fresh("bench.batches", base="", how="memory", rows=_MANY) / _MEGABYTE
    return [
        row(
            f"{_ROWS:,} rows in a batch / dspy.Parallel({_THREADS}), 200 ms provider",
            found["plain"],
            found["parallel"],
            "rows/s",
            ">= 2",
        ),
        row("a batch with a journal / without", found["journal"], found["plain"], "rows/s", ">= 0.95"),
        Row(f"growth over {_MANY:,} rows", grown, 30.0, "MB", grown / 30.0, "<= 1"),
    ]
