"""How far a batch is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dspex.cli.batch.program import Ended

# Seconds between lines where there is no terminal: a log of a night's work is to be read by people.
_EVERY = 10.0


class Tally:
    """What has ended so far, shown as it grows; all of it goes to standard error.

    Args:
        total: How many rows there are.
        quiet: Nothing is shown where there is no terminal.

    Attributes:
        ok: Rows that were answered.
        failed: Rows that were not.
        tokens: Of their requests.
        cost: In dollars, as far as it is known.
        priced: Whether the price of every answer is known.
    """

    def __init__(self, total: int, *, quiet: bool = False) -> None:
        self.total, self.ok, self.failed, self.tokens, self.cost = total, 0, 0, 0, 0.0
        self.priced = True
        self._quiet = quiet
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._began = self._told = time.monotonic()

    @property
    def done(self) -> int:
        """Rows that have ended."""
        return self.ok + self.failed

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar = Progress(
                BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn(),
                console=self._console,
            )  # fmt: skip
            self._bar.start()
            self._bar.add_task(" · ".join(self._facts()), total=self.total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._show()
            self._bar.stop()

    def add(self, outcome: Ended) -> None:
        """Count one."""
        response = outcome.response
        if response is None:
            self.failed += 1
        else:
            self.ok += 1
            self.tokens += response.usage.prompt_tokens + response.usage.completion_tokens
            self.cost += response.cost or 0.0
            self.priced &= response.cost is not None
        if self._bar is not None:
            self._show()  # it is drawn some ten times a second, however often this is called
        elif not self._quiet and time.monotonic() - self._told >= _EVERY:
            self._told = time.monotonic()
            self.say(" · ".join([self.text(), *self._left()]))

    def say(self, text: str) -> None:
        """A line of its own."""
        console = self._console if self._bar is None else self._bar.console
        console.print(text, style="dim", highlight=False, markup=False, soft_wrap=True)

    def text(self) -> str:
        """All that has happened in a line."""
        return " · ".join([f"{self.done} of {self.total} done", *self._facts()])

    def _facts(self) -> list[str]:
        """What the bar does not draw."""
        cost = f"${self.cost:.4f}" if self.priced else "price unknown"
        return [
            f"{self.ok} ok", f"{self.failed} failed", f"{self.tokens} tokens", cost,
            f"{self._rate():.1f} rows/s",
        ]  # fmt: skip

    def _rate(self) -> float:
        passed = time.monotonic() - self._began
        return self.done / passed if passed else 0.0

    def _left(self) -> list[str]:
        rate = self._rate()
        if not rate or self.done >= self.total:
            return []
        return [f"{timedelta(seconds=round((self.total - self.done) / rate))} left"]

    def _show(self) -> None:
        assert self._bar is not None
        self._bar.update(self._bar.task_ids[0], completed=self.done, description=" · ".join(self._facts()))
