"""The ``dspex`` command at a terminal, as somebody who types sees it."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
from types import TracebackType
from typing import Self

from tests.processes import until
from tests.shell import environment

# The terminal becomes the one that Ctrl-C comes from.
_TYPED = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from dspex.cli import main; main()"
_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|[\x01\x02]")


class Terminal:
    """A command that has a terminal.

    Args:
        arguments: Its command line.
        variables: Its environment beside the usual one.

    Attributes:
        process: The command.
        seen: What the terminal has shown, without colours and movements.
    """

    def __init__(self, *arguments: str, **variables: str) -> None:
        self.seen = ""
        self._raw = b""
        self._far, near = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TYPED, *arguments],
            env=environment(TERM="xterm", INPUTRC="/dev/null", **variables),
            stdin=near,
            stdout=near,
            stderr=near,
            start_new_session=True,
        )
        os.close(near)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._far)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._far, text.encode())

    def shows(self, text: str, *, since: int = 0) -> int:
        """Wait until the terminal has shown a text.

        Args:
            text: The text.
            since: How much of what was seen is not looked at.

        Returns:
            How much has been seen up to its end.
        """

        def found() -> bool:
            self._take()
            return text in self.seen[since:]

        try:
            until(found, 60)
        except BaseException:
            print(self.seen)  # noqa: T201 (a failed test shows it)
            raise
        return self.seen.index(text, since) + len(text)

    def ends(self) -> int:
        """Wait until the command has ended, and give its exit code."""

        def ended() -> bool:
            self._take()
            return self.process.poll() is not None

        until(ended, 60)
        self._take()
        return self.process.returncode

    def _take(self) -> None:
        while select.select([self._far], [], [], 0)[0]:
            try:
                more = os.read(self._far, 65536)
            except OSError:  # the command has ended
                return
            self._raw += more
            self.seen = _CODES.sub("", self._raw.decode(errors="replace"))
            if not more:
                return
