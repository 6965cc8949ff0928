"""``python -m bench [--rounds N] [--only echo,instant,provider,processes] [--json FILE]``."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import calls, echo, processes
from bench.measure import Row, write

SUITES = {
    "echo": echo.rows,
    "instant": calls.instant_rows,
    "provider": calls.provider_rows,
    "processes": processes.rows,
}


def main() -> int:
    """Run the suites; the exit code says whether every bar is met."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side, one after the other")
    parser.add_argument("--only", default=",".join(SUITES), help="suites, separated by commas")
    parser.add_argument("--json", type=Path, default=Path("bench/results/latest.json"), help="where to write")
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
    console.print(_table(rows))
    console.print(f"{facts}; written to {chosen.json}", style="dim")
    return 0 if all(row.passed is not False for row in rows) else 1


def _table(rows: list[Row]) -> Table:
    table = Table("measured / compared with", "dspex", "other", "unit", "ratio", "bar", "")
    for row in rows:
        verdict = {True: "[green]met[/]", False: "[red]missed[/]", None: ""}[row.passed]
        table.add_row(
            row.name, f"{row.ours:,.4g}", f"{row.other:,.4g}", row.unit, f"{row.ratio:.3g}", row.bar, verdict
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
