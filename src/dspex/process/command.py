"""Become a program of somebody else's, tied to the life of whoever started it."""

from __future__ import annotations

import os
from typing import NoReturn

from dspex.process import lifeline as life


def main(command: list[str], cwd: str | None, lifeline: int) -> NoReturn:
    """Arm the lifeline, which a program keeps when it takes the place of another, and become the command.

    Args:
        command: The program and its arguments.
        cwd: Where it is started; None is here.
        lifeline: The read end.
    """
    life.arm(lifeline)
    try:
        if cwd is not None:
            os.chdir(cwd)
        os.execvp(command[0], command)  # noqa: S606 (the command that the user gave)
    except OSError as error:
        raise SystemExit(f"{command[0]}: {error.strerror}: {error.filename or cwd}") from None
