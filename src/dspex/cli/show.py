"""What the command line shows: answers on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
import threading
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn
from rich.progress import Progress as Bar

import dspex
from dspex.cli.legible import legible, to_output
from dspex.wire.jsonready import json_ready

_STEPS = {
    "joining": "joining the model's weights (once)",
    "downloading": "downloading the model (once)",
    "loading": "loading the model",
}


# What an error's advice is called on the command line.
_HINTS = {
    dspex.PythonTimeout: "here: --timeout SECONDS",
    dspex.LMNotConfigured: "here: --lm MODEL or $DSPEX_LM, and --api-key env:NAME",
    dspex.InvalidInput: "here: inputs are FIELD=VALUE, where a VALUE for a field that is not text is JSON",
}


class Progress:
    """How far the embedded model is: a bar on a terminal, a line for each step elsewhere.

    A bar takes hold of standard output as well, and draws itself anew many times a second: there is one only
    from a model's first step to its last, and none once it was told to ``end``.

    Args:
        quiet: Elsewhere nothing, for programs that read standard error.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True)
        self._quiet = quiet
        self._bar: Bar | None = None
        self._step = ""
        self._over = False
        # Steps are told on the thread of events, and the end on another.
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Let go of the terminal: what comes after it is told in lines. Safe to repeat."""
        with self._lock:
            self._over = True
            self._stop()

    def show(self, event: dspex.LocalModelProgress) -> None:
        """Take note of one event; called on the thread of events."""
        with self._lock:
            text = _STEPS.get(event.step, event.step)
            new = event.step != self._step
            self._step = event.step
            if event.step == "loading" and event.done == event.total:
                self._stop()  # the model works from here on
            elif self._console.is_terminal and not self._over:
                self._draw(text, event, new=new)
            elif new and not self._quiet:
                self._console.print(f"{text} ...", style="dim", highlight=False)

    def _draw(self, text: str, event: dspex.LocalModelProgress, *, new: bool) -> None:
        if self._bar is None:
            columns = (TextColumn("[dim]{task.description}"), BarColumn(), DownloadColumn())
            self._bar = Bar(*columns, console=self._console, transient=True)
            self._bar.start()
            new = True
        if new:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._bar.add_task(text, total=event.total)
        self._bar.update(self._bar.task_ids[-1], completed=event.done, total=event.total)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def outputs(response: dspex.Response) -> None:
    """The outputs on standard output: one alone as it is, several each behind its name."""
    texts = {
        name: value if isinstance(value, str) else json.dumps(json_ready(value), ensure_ascii=False)
        for name, value in response.outputs.items()
    }
    if len(texts) == 1:
        print(to_output(*texts.values()))
    else:
        for name, text in texts.items():
            print(f"{name}: {to_output(text)}")


def summary(response: dspex.Response) -> None:
    """One dim line on standard error: model, tokens, seconds, and the price, or that it is unknown."""
    usage = response.usage
    facts = [
        response.model or "no model",
        f"{usage.prompt_tokens} + {usage.completion_tokens} tokens",
        f"{response.timing.total:.1f} s",
        "price unknown" if response.cost is None else f"${response.cost:.6f}" if response.cost else "free",
    ]
    Console(stderr=True).print(" · ".join(facts), style="dim", highlight=False, markup=False)


def problem(error: dspex.DspexError, *, as_json: bool, hints: bool = True) -> None:
    """An error on standard error, with what its advice is called on the command line where that is of use."""
    if as_json:
        print(json.dumps({"error": json_ready(error.to_wire())}, ensure_ascii=False), file=sys.stderr)
        return
    console = Console(stderr=True, soft_wrap=True)
    console.print(f"[bold red]{error.code}[/]", end=" ", highlight=False)
    console.print(legible(error.message), highlight=False, markup=False)
    if hints and (hint := next((text for kind, text in _HINTS.items() if isinstance(error, kind)), None)):
        console.print(hint, style="dim", highlight=False, markup=False)
    for frame in error.details.get("frames", []):
        place = f"  {frame['file']}:{frame['line']} in {frame['function']}"
        console.print(place, style="dim", highlight=False, markup=False)
