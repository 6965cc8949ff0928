"""The command itself: which checks there are, in which order, and how they are shown."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Annotated, NamedTuple

import msgspec
import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from dspex.adapter.runtime import Runtime
from dspex.cli.doctor import kernel, model, surroundings, system, trial
from dspex.cli.doctor.finding import Finding
from dspex.cli.page import as_json, page, table, terminal
from dspex.cli.show import problem
from dspex.errors import DspexError
from dspex.settings import Settings
from dspex.wire.jsonready import json_ready

#: Shown under ``dspex doctor --help``.
EXAMPLES = """\b
Examples:
  dspex doctor
  dspex doctor --quick
  dspex doctor --json | jq '.checks[] | select(.status != "ok")'
"""

_BROKEN, _BAD_USAGE = 1, 2
_MARKS = {
    "ok": ("✓", "green"),
    "warning": ("!", "yellow"),
    "missing": ("!", "yellow"),
    "broken": ("✗", "bold red"),
}

Checks = list[tuple[str, Callable[[], Finding]]]


class SettingLine(NamedTuple):
    """One option of ``Settings``: its value as it may be shown, and where that came from."""

    option: str
    value: str
    source: str


def doctor(
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object: ok, checks, settings, ignored.")
    ] = False,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Do not hash the embedded model's weights (1.1 GB, some seconds)."),
    ] = False,
) -> None:
    """Try what dspex needs of this machine, and say what mends what is missing.

    Nothing is sent anywhere. Keys are looked for by name, and nothing of a value is shown. What is
    missing and not needed for basic use (a key, the embedded model, a sandbox) is no failure.

    Exit codes: 0 dspex can be used here, 1 it cannot: a check is broken, 2 the command line or the
    settings are wrong.
    """
    try:
        settings = Settings()
        Runtime(settings=settings)  # not opened: profiles, default LM and pools are checked when it is made
    except DspexError as error:
        problem(error, as_json=json)
        raise typer.Exit(_BAD_USAGE) from None
    findings: list[tuple[str, Finding]] = []
    with _spinner(quiet=json) as say:
        for name, check in _checks(settings, quick, say):
            say(name)
            findings.append((name, _try(check)))
    broken = [name for name, finding in findings if finding.status == "broken"]
    if json:
        checks = [{"name": name, **msgspec.structs.asdict(finding)} for name, finding in findings]
        options = [
            {"option": name, "value": json_ready(value), "source": origin}
            for name, (value, origin) in settings.sources().items()
        ]
        found = {"checks": checks, "settings": options, "ignored": list(settings.ignored)}
        as_json({"ok": not broken, **found})
    else:
        page(*_parts(findings, settings))
    if broken:
        raise typer.Exit(_BROKEN)


def settings_lines(settings: Settings) -> list[SettingLine]:
    """Every option of the settings, in their order, and what was passed over."""
    lines = [SettingLine(name, repr(value), origin) for name, (value, origin) in settings.sources().items()]
    return lines + [SettingLine(name, "", "passed over") for name in settings.ignored]


def _checks(settings: Settings, quick: bool, say: Callable[[str], None]) -> Checks:
    weights = functools.partial(
        model.weights, settings.local_model, quick=quick, say=lambda far: say(f"weights: {far}")
    )
    return [
        ("Python", system.python),
        ("system", system.system),
        ("dspex", system.dspex),
        ("DSPy", functools.partial(system.dspy, settings.python)),
        ("pidfd", kernel.pidfd),
        ("memfd", kernel.memfd),
        ("descriptors", kernel.passing),
        ("worker", functools.partial(trial.worker, settings.python)),
        ("cores", system.cores),
        ("memory", system.memory),
        ("open files", system.open_files),
        ("keys", functools.partial(surroundings.keys, settings)),
        ("libgomp", model.libgomp),
        ("local runtime", model.runtime),
        ("local weights", weights),
        ("sandbox", surroundings.sandbox),
        ("cache folder", surroundings.cache),
        ("runtime folder", surroundings.presence),
        ("temporary folder", surroundings.temporary),
    ]


def _try(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as error:  # noqa: BLE001 (what a check did not foresee is what a doctor is asked for)
        return Finding("broken", f"this check failed: {type(error).__name__}: {error}")


@contextlib.contextmanager
def _spinner(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Says on a terminal what is being tried."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda _: None
        return
    with console.status("") as shown:
        yield lambda text: shown.update(Text(text, style="dim"))


def _parts(findings: list[tuple[str, Finding]], settings: Settings) -> Iterator[RenderableType]:
    marks = terminal() is not None
    grid = Table.grid(padding=(0, 2, 0, 0))
    for name, finding in findings:
        mark, style = _MARKS[finding.status]
        status = f"{mark} {finding.status}" if marks else finding.status
        grid.add_row(Text(status, style=style), Text(name, style="bold"), Text(finding.found))
        if finding.mend is not None:
            grid.add_row(
                "", "", Text(f"→ {finding.mend}" if marks else f"mend: {finding.mend}", style="cyan")
            )
    yield grid
    yield Text()
    yield table(("SETTING", "VALUE", "SOURCE"), settings_lines(settings))
    yield Text()
    yield _verdict([finding for _, finding in findings])


def _verdict(findings: list[Finding]) -> Text:
    broken = sum(finding.status == "broken" for finding in findings)
    lacking = sum(finding.status in {"warning", "missing"} for finding in findings)
    if broken:
        return Text(f"dspex cannot be used here: {broken} broken, {lacking} to look at.", style="bold red")
    if lacking:
        return Text(f"dspex can be used here; {lacking} to look at if you need them.", style="yellow")
    return Text("dspex can be used here, with all its parts.", style="green")
