"""``dspex status``: how the runtimes of this user stand."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from typing import Annotated, NoReturn

import typer
from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.live import Live
from rich.text import Text

from dspex.cli.page import as_json, page, table, terminal
from dspex.pool.stats import BreakerStats, BudgetStats, LMStats, PoolStats, WorkerStats
from dspex.runtime.presence import Answers, Report, ask
from dspex.telemetry.insights import Insight

#: Shown under ``dspex status --help``.
EXAMPLES = """\b
Examples:
  dspex status
  dspex status --watch
  dspex status --json | jq '.runtimes[].stats.pools.general.queued'
"""

_PERIOD = 1.0  # seconds between two looks of --watch
_SILENT = 1
_BUDGETS = 20  # a service may have one for each of its customers
_STYLES = {"ready": "green", "busy": "yellow", "draining": "cyan", "dead": "red"}


def status(
    json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object: runtimes, and pids that are silent."),
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again every second, until Ctrl-C; with --json a line each.")
    ] = False,
) -> None:
    """Show the open runtimes of this user, their workers and calls.

    Of each: pools, workers, what is queued, calls by how they ended, workers replaced by cause, the LMs that
    have limits, and what was spent of budgets, of today's and of sessions'.

    Exit codes: 0 all have answered, or none is open; 1 one of them does not answer: it is stopped, its
    event loop is blocked, or it has another version of dspex; 2 the command line is wrong; 130 --watch was
    ended with Ctrl-C.
    """
    if watch:
        _watch(json)
    _show(answers := ask(), json)
    if answers.silent:
        raise typer.Exit(_SILENT)


def _show(answers: Answers, json: bool) -> None:
    if json:
        as_json({"runtimes": answers.reports, "silent": answers.silent})
    else:
        page(*_parts(answers))


def _watch(json: bool) -> NoReturn:
    """Look until a signal comes."""
    console = None if json else terminal()
    if console is not None:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(Group(*_parts(ask())), refresh=True)
                time.sleep(_PERIOD)
    while True:
        _show(ask(), json)
        if not json:
            print()
        sys.stdout.flush()
        time.sleep(_PERIOD)


def _parts(answers: Answers) -> Iterator[RenderableType]:
    if not answers.reports and not answers.silent:
        yield Text("No runtime of this user is open.")
    for position, report in enumerate(answers.reports):
        if position:
            yield Text()
        yield from _runtime(report)
    for pid in answers.silent:
        yield Text(
            f"The runtime of process {pid} does not answer: it is stopped, its event loop is blocked, or it "
            "has another version of dspex.",
            style="red",
        )


def _runtime(report: Report) -> Iterator[RenderableType]:
    facts = [
        f"pid {report.pid}",
        f"open for {_duration(time.time() - report.started)}",
        f"Python {report.python}",
        f"dspex {report.dspex or 'of unknown version'}",
    ]
    if report.dspy is not None:
        facts.append(f"DSPy {report.dspy}")
    yield Text(report.program or "python", style="bold").append("  " + " · ".join(facts), style="not bold")
    pools = report.stats.pools.items()
    yield table(
        ("POOL", "WORKERS#", "CALLS#", "UNFINISHED#", "QUEUED#", "ENDED", "RESTARTS", "LATE REPLIES#"),
        [_pool(name, pool) for name, pool in pools],
    )
    for name, pool in pools:
        if pool.unhealthy is not None:
            yield Text(f"{name} refuses calls: {pool.unhealthy}", style="red")
    if any(pool.workers for _, pool in pools):
        yield table(
            ("WORKER", "PID#", "STATE", "RSS#", "IN FLIGHT#", "DONE#"),
            [_worker(name, worker) for name, pool in pools for worker in pool.workers],
        )
    if report.insights:
        heads = ("LAST 5 MIN", "MODEL", "CALLS#", "/S#", "P50#", "P95#", "P99#", "TOKENS#", "COST#", "HITS#")
        yield table(
            (*heads, "SLOWEST", "ERRORS", "BEFORE"), [_insight(insight) for insight in report.insights]
        )
    if report.stats.breakers:
        yield table(
            ("BREAKER", "MODEL", "STATE", "REQUESTS#", "FAILURES#"),
            [_breaker(breaker) for breaker in report.stats.breakers],
        )
    if budgets := sorted(report.stats.budgets, key=lambda one: (one.scope != "day", -_used(one))):
        yield table(
            ("BUDGET", "OF", "TOKENS#", "COST#", "UNDER WAY#"), [_budget(one) for one in budgets[:_BUDGETS]]
        )
        if len(budgets) > _BUDGETS:
            yield Text(f"and {len(budgets) - _BUDGETS} more, of which less is used; --json has all")
    if report.stats.lms:
        yield table(
            ("LM", "IN FLIGHT#", "WAITING#", "REQUESTS/MIN#", "TOKENS/MIN#", ""),
            [_lm(lm) for lm in report.stats.lms],
        )


def _pool(name: str, pool: PoolStats) -> tuple[str, ...]:
    # One that has no workers of its own forks them for calls, and has none when there are none.
    there = len(pool.workers)
    return (
        name,
        f"{there} of {pool.wanted}" if pool.wanted else str(there) if there else "on demand",
        str(pool.calls),
        str(pool.unfinished),
        str(pool.queued),
        _counts(pool.counters),
        _counts(pool.restarts),
        str(pool.late_replies),
    )


def _worker(pool: str, worker: WorkerStats) -> tuple[str | Text, ...]:
    return (
        f"{pool}/{worker.number}",
        str(worker.pid),
        Text(worker.state, style=_STYLES.get(worker.state, "")),
        decimal(worker.rss),
        str(worker.in_flight),
        str(worker.done),
    )


def _lm(lm: LMStats) -> tuple[str | Text, ...]:
    return (
        lm.model,
        str(lm.in_flight),
        str(lm.waiting),
        str(lm.requests),
        str(lm.tokens),
        Text("slowed: its provider is busy", style="yellow") if lm.slowed else "",
    )


def _insight(insight: Insight) -> tuple[str | Text, ...]:
    return (
        insight.module,
        insight.model or "",
        str(insight.calls),
        f"{insight.rate:.3g}",
        *(_latency(seconds) for seconds in (insight.p50, insight.p95, insight.p99)),
        str(insight.prompt_tokens + insight.completion_tokens),
        f"${insight.cost:.4f}",
        f"{insight.cache_hits:.0%}",
        insight.slowest,
        Text(_counts(insight.errors), style="red" if insight.errors else ""),
        "" if insight.p50_change is None else f"p50 ×{insight.p50_change:.2g}",
    )


def _latency(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds * 1000:.3g} ms" if seconds < 0.9995 else f"{seconds:,.1f} s"


def _breaker(breaker: BreakerStats) -> tuple[str | Text, ...]:
    style = "" if breaker.state == "closed" else "red"
    return (
        breaker.endpoint,
        breaker.model,
        Text(breaker.state.replace("_", " "), style=style),
        str(breaker.requests),
        str(breaker.failures),
    )


def _used(budget: BudgetStats) -> float:
    """The part of a budget that is spent, in the unit in which that is more."""
    pairs = ((budget.tokens, budget.limit.tokens), (budget.cost, budget.limit.cost))
    return max((spent / limit if limit else 1.0 for spent, limit in pairs if limit is not None), default=0.0)


def _budget(budget: BudgetStats) -> tuple[str | Text, ...]:
    tokens, cost = budget.limit.tokens, budget.limit.cost
    return (
        Text(budget.scope, style="red" if _used(budget) >= 1 else ""),
        budget.name,
        f"{budget.tokens:,}" + ("" if tokens is None else f" of {tokens:,}"),
        f"${budget.cost:.4f}" + ("" if cost is None else f" of ${cost:,g}"),
        f"{budget.reserved_tokens:,}, ${budget.reserved_cost:.4f}" if budget.reserved_tokens else "",
    )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
