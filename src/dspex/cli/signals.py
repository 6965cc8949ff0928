"""Signals that end a command: its work is stopped, and the exit code is what shells expect."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_came: list[int] = []
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal came. Not a ``KeyboardInterrupt``, of which the command line's parser makes ``Aborted!``.

    Args:
        number: The signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.name = signal.Signals(number).name
        self.code = exit_code(number)


def exit_code(number: int) -> int:
    """What shells make of a program that a signal has ended."""
    return 128 + number


def _leave(number: int, _: FrameType | None) -> None:
    os._exit(exit_code(number))


def _interrupt(number: int, _: FrameType | None) -> None:
    # Whoever asks once more has no patience for a tidy end: workers end with this process in any case. The
    # first thing that is done here, because the second signal may come while this runs.
    if _came:
        os._exit(exit_code(number))
    _came.append(number)
    raise Interrupted(number)


def _on_each(handler: signal._HANDLER) -> None:
    for number in _ENDING:
        # `nohup`, and a shell that starts a job in the background, ignore some for good reason. Elsewhere a
        # handler is needed even for what ends a program by default: the kernel keeps that from process 1.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def leave_at_once() -> None:
    """Have signals end this process as it is; for as long as nothing is open."""
    _on_each(_leave)


def interrupt() -> None:
    """Have the first signal raise ``Interrupted`` in the main thread, and a second one end this process."""
    _on_each(_interrupt)


@contextmanager
def loading() -> Iterator[None]:
    """Have signals end this process as it is while a command is imported, where they would interrupt it."""
    if all(signal.getsignal(number) is not _interrupt for number in _ENDING):
        yield
        return
    leave_at_once()
    try:
        yield
    finally:
        interrupt()


def tell(stopped: Interrupted) -> None:
    """Say so in one line on standard error."""
    from dspex.cli.show import problem
    from dspex.errors import Cancelled

    error = Cancelled(f"stopped by {stopped.name}", details={"signal": stopped.name})
    try:
        problem(error, as_json="--json" in sys.argv)
    except OSError:  # the terminal is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
