"""The ``dspex`` command."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
from typing import NoReturn

from dspex.cli import signals
from dspex.process import standard

_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE}


def main() -> None:
    """Run the command line; the entry point of the ``dspex`` script."""
    standard.fill()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the locale does not have is shown by its number, which beats a traceback.
        sys.stdout.reconfigure(errors="backslashreplace")
    signals.leave_at_once()
    from dspex.cli.app import app
    from dspex.telemetry.logs import Warnings

    logging.getLogger("dspex").addHandler(Warnings())
    try:
        try:
            signals.interrupt()
            app()
        finally:
            if sys.stdout is not None:  # it is None when the shell closed it
                sys.stdout.flush()
    except signals.Interrupted as stopped:
        signals.tell(stopped)
        sys.exit(stopped.code)
    except OSError as error:
        # Errors of files that a command names are told by the command; these have no name.
        if error.errno not in _UNWRITABLE or error.filename is not None:
            raise
        _give_up(error)


def _give_up(lost: OSError) -> NoReturn:
    """Standard output takes no more: say so in a line, unless it is a reader that has seen enough."""
    # What is still buffered would fail again when the interpreter ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(lost, BrokenPipeError):
        sys.stderr.write(f"dspex: the output cannot be written: {lost.strerror}\n")
    sys.exit(1)
