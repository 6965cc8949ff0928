"""Run the benchmarks, print a table of medians and ratios, and write JSON.

The rows of interest to a reader go between the marks of a Markdown file with ``--into README.md``.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import (
    batches,
    cache,
    calls,
    comparison,
    echo,
    faults,
    large,
    litellm,
    processes,
    sandbox,
    served,
    sessions,
    streams,
    telemetry,
    tools,
    traces,
    warmth,
)
from bench.measure import Row, write

SUITES = {
    "echo": echo.rows,
    "instant": calls.instant_rows,
    "gate": calls.gate_rows,
    "provider": calls.provider_rows,
    "processes": processes.rows,
    "faults": faults.rows,
    "large": large.rows,
    "litellm": litellm.rows,
    "tools": tools.rows,
    "comparison": comparison.rows,
    "sandbox": sandbox.rows,
    "warmth": warmth.rows,
    "sessions": sessions.rows,
    "batches": batches.rows,
    "cache": cache.rows,
    "telemetry": telemetry.rows,
    "streams": streams.rows,
    "http": served.rows,
    "traces": traces.rows,
}


def main() -> int:
    """Run the suites; the exit code says whether every bar is met."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side, one after the other")
    parser.add_argument("--only", default=",".join(SUITES), help="suites, separated by commas")
    parser.add_argument("--json", type=Path, default=Path("bench/results/latest.json"), help="where to write")
    parser.add_argument("--into", type=Path, help="Markdown file with marks, to put the rows with a bar into")
    chosen = parser.parse_args()
    console = Console(width=120)
    rows: list[Row] = []
    for name in chosen.only.split(","):
        with console.status(f"measuring {name} ..."):
            rows += SUITES[name](chosen.rounds)
    facts = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)),
        "rounds": chosen.rounds,
    }
    write(rows, chosen.json, facts)
    if chosen.into is not None:
        _put_into(chosen.into, rows, facts)
    console.print(_table(rows))
    console.print(f"{facts}; written to {chosen.json}", style="dim")
    return 0 if all(row.passed is not False for row in rows) else 1


def _table(rows: list[Row]) -> Table:
    table = Table("measured / compared with", "dspex", "other", "unit", "ratio", "bar", "")
    for row in rows:
        verdict = {True: "[green]met[/]", False: "[red]missed[/]", None: ""}[row.passed]
        table.add_row(
            row.name, _figure(row.ours), _figure(row.other), row.unit, f"{row.ratio:.3g}", row.bar, verdict
        )
    return table


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _put_into(file: Path, rows: list[Row], facts: dict[str, object]) -> None:
    lines = ["| measured / compared with | dspex | the other | ratio |", "|---|---|---|---|"]
    for row in rows:
        if row.bar and row.other != row.limit:
            ours, other = (f"{_figure(value)} {row.unit}" for value in (row.ours, row.other))
            lines.append(f"| {row.name} | {ours} | {other} | {row.ratio:.2g} |")
        elif row.bar:
            lines.append(f"| {row.name} | {_figure(row.ours)} {row.unit} | | |")
    lines.append("")
    lines.append(
        f"Python {facts['python']}, {facts['system']}, {facts['cores']} cores, {facts['rounds']} rounds."
    )
    before, _, rest = file.read_text().partition("<!-- bench -->")
    after = rest.partition("<!-- /bench -->")[2]
    file.write_text(f"{before}<!-- bench -->\n" + "\n".join(lines) + f"\n<!-- /bench -->{after}")


if __name__ == "__main__":
    sys.exit(main())
