"""What all benchmarks share: fresh processes, many calls at once, medians, and a table."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: What was measured.
        ours: dspex's median.
        other: The median of what it is compared with.
        unit: Of both.
        ratio: ``ours / other``.
        bar: What the ratio has to be: ``"<= 0.5"`` or ``">= 4"``; empty for information only.
    """

    name: str
    ours: float
    other: float
    unit: str
    ratio: float
    bar: str = ""

    @property
    def limit(self) -> float | None:
        """The number of a bar that is absolute: then ``other`` is the bar and nothing was compared."""
        return self.other if self.bar == "<= 1" else None

    @property
    def passed(self) -> bool | None:
        """Whether the bar is met; None without one."""
        if not self.bar:
            return None
        sign, _, number = self.bar.partition(" ")
        return self.ratio <= float(number) if sign == "<=" else self.ratio >= float(number)


def row(name: str, ours: list[float], other: list[float], unit: str, bar: str = "") -> Row:
    """A row of medians; the ratio is the median of the ratios of neighbouring runs, for machines drift."""
    ratios = [a / b for a, b in zip(ours, other, strict=True)]
    return Row(name, statistics.median(ours), statistics.median(other), unit, statistics.median(ratios), bar)


async def rate(calls: int, at_once: int, one: Callable[[int], Awaitable[object]]) -> float:
    """Calls per second with so many in flight."""
    numbers = iter(range(calls))

    async def caller() -> None:
        for number in numbers:
            await one(number)

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(at_once)))
    return calls / (time.perf_counter() - started)


async def latency(calls: int, one: Callable[[int], Awaitable[object]]) -> float:
    """Median seconds of one call after another."""
    times = []
    for number in range(calls):
        started = time.perf_counter()
        await one(number)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def side_by_side(rounds: int, measures: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Run each in turn, so many times."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            found[name].append(measure())
    return found


def fresh(module: str, **arguments: Any) -> Any:
    """Run ``module.main(**arguments)`` in a fresh interpreter and return what it prints as JSON."""
    code = f"import json, sys; from {module} import main; print(json.dumps(main(**json.loads(sys.argv[1]))))"
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONWARNINGS": "ignore"}
    ran = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if ran.returncode != 0:
        raise RuntimeError(f"{module}{arguments} failed:\n{ran.stderr[-2000:]}")
    return json.loads(ran.stdout.splitlines()[-1])


@contextlib.contextmanager
def provider(delay: float, *options: str) -> Iterator[str]:
    """A provider in a process of its own that answers after ``delay`` seconds; its base URL."""
    with subprocess.Popen(  # it closes the pipes
        [sys.executable, "tests/provider", "--delay", str(delay), "--port", "0", *options],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def write(rows: list[Row], path: Path, facts: Mapping[str, Any]) -> None:
    """Write all rows as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"machine": facts, "rows": [{**asdict(row), "passed": row.passed} for row in rows]}
    path.write_text(json.dumps(data, indent=2) + "\n")
