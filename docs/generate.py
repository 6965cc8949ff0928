"""Writes docs/reference/, and tables of other pages, from the code: ``uv run python docs/generate.py``.

With ``--check`` nothing is written; the exit code is 1 when a page on disk differs from what the code says.
Words come from docstrings. What a docstring cannot know (which commands a worker answers, what the command
line prints) is asked of the real thing.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import get_args

import adapter_page
import commands_page
import events_page
import provider_tables
import values_page
from render import (
    WIDTH,
    attributes,
    code,
    described,
    methods,
    option_rows,
    page,
    read,
    spelled,
    struct,
    table,
)
from typer.testing import CliRunner

import dspex
from dspex import errors, testing
from dspex.cli.app import app
from dspex.cli.commands import COMMANDS, load
from dspex.settings.options import LMOptions, RuntimeOptions
from dspex.settings.programs import ProgramOptions
from dspex.telemetry.buckets import BOUNDS
from dspex.telemetry.prometheus import METRICS

HERE = Path(__file__).parent
REFERENCE = HERE / "reference"
SOURCE = Path(dspex.__file__).parent
EXAMPLE = SOURCE.parents[1] / "examples" / "settings" / "dspex.toml"


def errors_page() -> str:
    """Every error, as a tree and as tables."""
    tree = (errors.__doc__ or "").partition("::\n\n")[2].partition("\n\n")[0]
    raised = _raised()
    groups = []
    silent = []
    for group in errors.DspexError.__subclasses__():
        rows = []
        for kind in group.__subclasses__():
            rows.append(
                (
                    f"`{kind.code}`",
                    f"`{kind.__name__}`",
                    "yes" if kind.retryable else "no",
                    read(kind).text,
                )
            )
            if kind.__name__ not in raised:
                silent.append(f"`{kind.code}`")
        head = table(("Code", "Class", "Retryable", "Meaning"), rows)
        groups.append(f"## {group.__name__}\n\n{read(group).text}\n\n{head}")
    return page(
        "Errors",
        "Every failure that dspex reports is a `dspex.DspexError`. There is one class for each code, and "
        "all of them import from `dspex`.",
        code(inspect.cleandoc("\n" + tree), "text"),
        "## DspexError",
        attributes(errors.DspexError),
        described("error.to_wire", errors.DspexError.to_wire),
        *groups,
        "## Codes that nothing raises",
        f"These codes have their class and their place, and nothing in this version raises them: "
        f"{', '.join(silent)}.",
        "## Other exceptions",
        "`RuntimeError` is raised for wrong use of the library itself: a runtime that is opened twice, an "
        "adapter without a runtime, a sync method called on the event loop that the runtime lives on. An "
        "awaited call whose task is cancelled raises `asyncio.CancelledError`, as anything awaited does.",
    )


def _raised() -> set[str]:
    """Names of error classes that something in the package makes, or that a failure is translated to."""
    found = set()
    for file in SOURCE.rglob("*.py"):
        if file == SOURCE / "__init__.py" or file.parent == SOURCE / "errors":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id=name)):
                    found.add(name)
                case ast.Attribute(value=ast.Name(id="errors"), attr=name):
                    found.add(name)
    return found


def settings_page() -> str:
    """Every option of a settings file, and the classes that code has for them."""
    rows = [
        *option_rows((), RuntimeOptions),
        *option_rows(("lm", "NAME"), LMOptions),
        *option_rows(("lm", "NAME", "retry"), dspex.Retry),
        *option_rows(("lm", "NAME", "limits"), dspex.Limits),
        *option_rows(("lm", "NAME", "breaker"), dspex.Breaker),
        *option_rows(("pool", "NAME"), dspex.PoolOptions),
        *option_rows(("program", "NAME"), ProgramOptions),
        *option_rows(("budgets", "SCOPE"), dspex.Budget),
        *option_rows(("tenant_budgets", "NAME"), dspex.Budget),
    ]
    return page(
        "Settings",
        "How options are set, and which place is stronger, is told in [Settings](../how-to/settings.md).",
        "## Every option",
        "The name is that of a file: `pool.general.workers` is `workers` in the table `[pool.general]`. "
        "`NAME` is a name of yours, which a variable has in upper case. In `lm.NAME` any further key is a "
        "request parameter, and goes to the provider under its own name, or an option of the connection, as "
        "[Language models](lm.md#providers) lists them. `SCOPE` is `call`, `session`, `tenant` or `day`.",
        table(("Option", "Type", "Default", "Unit", "Variable", "Meaning"), rows),
        "`DSPEX_SETTINGS` names the settings file.",
        "## A file",
        code(EXAMPLE.read_text(encoding="utf-8").strip(), "toml"),
        "## Settings",
        described("Settings", dspex.Settings),
        *methods("settings", dspex.Settings, ("sources", "place", "to_dict", "reloaded")),
        "## PoolOptions",
        read(dspex.PoolOptions).text,
        "Its fields are the options of `pool.NAME` above. A wrong name is a `TypeError`, a value that an "
        'option does not take is an `InvalidOption` with `details["option"]`.',
    )


def lm_page() -> str:
    """Language models: profiles, retries, providers."""
    return page(
        "Language models",
        "How they are used is told in [Providers](../how-to/providers.md) and "
        "[The embedded model](../how-to/local-model.md).",
        "## LM",
        described("LM", dspex.LM),
        "Two LMs with equal options are equal and have equal hashes. The `repr` of an LM shows no key.",
        "## Limits",
        struct(dspex.Limits),
        "## Retry",
        struct(dspex.Retry),
        "## Breaker",
        struct(dspex.Breaker),
        "## Budget",
        "What it limits is said where it is given: `Settings(budgets={...})`, a call, a session. See "
        "[Budgets](../how-to/budgets.md).",
        struct(dspex.Budget),
        "## Providers",
        provider_tables.overview(),
        "Options of the connection, beside `extra_headers` and `extra_query`, which every provider that is "
        "not `local` takes (through LiteLLM only the former):",
        provider_tables.options(),
        "Other names of providers:",
        provider_tables.names(),
        "## LMSpec",
        "What an `LM` becomes for the workers. Callers make an `LM`.",
        struct(dspex.LMSpec),
    )


def testing_page() -> str:
    """What ``dspex.testing`` has."""
    lm = testing.ScriptedLM
    properties = [(name, member) for name, member in vars(lm).items() if isinstance(member, property)]
    shown = page(
        "Testing",
        "How it is used is told in [Tests of your own programs](../how-to/testing.md). All of it imports "
        "from `dspex.testing`.",
        "## ScriptedLM",
        described("ScriptedLM", lm),
        *[f"`.{name}`: {read(member).text}" for name, member in properties],
        *methods("lm", lm, ("assert_exhausted", "close")),
        "## Scripted",
        "What a script may reply. A text, and outputs by name, are short for a `Reply` of them.",
        code(f"Scripted = {' | '.join(spelled(kind) for kind in get_args(testing.Scripted))}"),
        *[f"## {kind.__name__}\n\n{struct(kind)}" for kind in (testing.Reply, testing.Failure, testing.Drop)],
        "## raw",
        described("raw", testing.raw),
        "## Request",
        attributes(testing.Request),
        "## InProcessRuntime",
        described("InProcessRuntime", testing.InProcessRuntime),
    )
    if missing := [name for name in testing.__all__ if f"## {name}\n" not in shown]:
        raise SystemExit(f"the page about testing has no {', '.join(missing)}")
    return shown


def metrics_page() -> str:
    """Every metric, with its labels."""
    rows = [
        f"| `{name}_total` |" if kind == "counter" else f"| `{name}` |"
        for name, (kind, _, _) in METRICS.items()
    ]
    rest = [f" {kind} | {', '.join(labels)} | {text} |" for kind, labels, text in METRICS.values()]
    return page(
        "Metrics",
        "`runtime.metrics()` and `/metrics` of `dspex serve` have these, in Prometheus' text format. How to "
        "use them is told in [Metrics and insights](../how-to/metrics.md).",
        "No label has values without bound: of models and modules 200 are told apart, the others are "
        "`others`. Tenants, sessions and requests are no labels. The pools of tenants count with the pool "
        "that they are of.",
        "\n".join(
            ["| Metric | Kind | Labels | What it is |", "|---|---|---|---|", *map(str.__add__, rows, rest)]
        ),
        "Histograms have buckets up to " + ", ".join(f"{bound:g}" for bound in BOUNDS) + " seconds.",
        "## Insight",
        struct(dspex.Insight),
    )


def cli_page() -> str:
    """What the command line prints about itself."""
    commands: list[list[str]] = [[]]
    for name in COMMANDS:
        commands += [[name], *([name, inner] for inner in getattr(load(name), "commands", ()))]
    parts = []
    for command in commands:
        name = " ".join(["dspex", *command])
        shown = CliRunner().invoke(app, [*command, "--help"], prog_name="dspex", terminal_width=WIDTH)
        if shown.exit_code != 0:
            raise SystemExit(f"{name} --help failed: {shown.output}")
        lines = [line.rstrip() for line in shown.output.strip().splitlines()]
        parts.append(f"## {name}\n\n{code(chr(10).join(lines), 'text')}")
    return page(
        "Command line",
        "The answer goes to standard output. Progress, a line with model, tokens and seconds, and errors go "
        "to standard error. Any command ends with exit code 1 when its output cannot be written, and with "
        "130 when it is interrupted by Ctrl-C.",
        *parts,
        "## Environment",
        table(
            ("Variable", "Meaning"),
            [
                (
                    "`DSPEX_LM`",
                    "The LM when `--lm` is not given. Here it comes before the file's `default_lm`.",
                ),
                ("`DSPEX_SETTINGS`", "The settings file."),
            ],
        ),
    )


PAGES: Mapping[str, Callable[[], str]] = {
    "errors": errors_page,
    "settings": settings_page,
    "lm": lm_page,
    "adapter": adapter_page.whole,
    "commands": commands_page.whole,
    "events": events_page.whole,
    "typed-values": values_page.whole,
    "cli": cli_page,
    "testing": testing_page,
    "metrics": metrics_page,
}


def main() -> int:
    """Write the pages, or compare them; the exit code."""
    options = argparse.ArgumentParser(description="Write docs/reference/ from the code.")
    options.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page differs")
    check = options.parse_args().check
    made = {REFERENCE / f"{name}.md": make() for name, make in PAGES.items()}
    together = "".join(made.values())
    providers = HERE / "how-to" / "providers.md"
    made[providers] = provider_tables.put_into(providers.read_text(encoding="utf-8"))
    if missing := [name for name in dspex.__all__ if not re.search(rf"\b{name}\b", together)]:
        raise SystemExit(f"no page of the reference has {', '.join(missing)}")
    changed = [
        path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    strangers = [path for path in REFERENCE.glob("*.md") if path not in made]
    for path in changed:
        sys.stderr.write(
            f"{path.relative_to(HERE.parent)} {'differs from the code' if check else 'written'}\n"
        )
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(made[path], encoding="utf-8")
    for path in strangers:
        sys.stderr.write(f"{path.relative_to(HERE.parent)} is not a page of the reference\n")
    return 1 if strangers or (check and changed) else 0


if __name__ == "__main__":
    sys.exit(main())
