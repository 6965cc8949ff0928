"""A bar that shows how far a batch is, on standard error when that is a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from dspex.batch.outcome import BatchProgress


class Bar:
    """Told how far a batch is; ``close`` it."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar: Progress | None = None

    def __call__(self, progress: BatchProgress) -> None:
        """Show it."""
        if not self._console.is_terminal:
            return
        if self._bar is None:
            self._bar = Progress(
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[said]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bar.add_task("", total=progress.total, said="")
            self._bar.start()
        cost = f" · ${progress.cost:.4f}" if progress.cost else ""
        said = f"{progress.failed} failed · {progress.tokens:,} tokens{cost} · {progress.rate:.1f}/s"
        self._bar.update(self._bar.task_ids[0], completed=progress.done, said=said)

    def close(self) -> None:
        """Leave the last line standing."""
        if self._bar is not None:
            self._bar.stop()
