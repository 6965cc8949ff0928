"""What is typed: lines with editing and recall on a terminal, plain ones from a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable

_MOST_RECALLED = 500


class Lines:
    """Reads what is typed.

    Attributes:
        typed: Whether a person types it; else it comes from a pipe or a file.
    """

    def __init__(self) -> None:
        self.typed = sys.stdin is not None and sys.stdin.isatty()
        self._shown = sys.stdout is not None and sys.stdout.isatty()
        if self.typed:
            _have_editing()

    def recall(self, earlier: Iterable[str]) -> None:
        """Have earlier lines come back with the arrow keys."""
        with contextlib.suppress(ImportError):
            import readline

            if self.typed:
                for line in list(earlier)[-_MOST_RECALLED:]:
                    readline.add_history(line)

    def read(self, prompt: str) -> str:
        """The next one; of a paste of several lines all of them, of lines that end in a backslash too.

        Raises:
            EOFError: There is no more.
            KeyboardInterrupt: Ctrl-C.
        """
        if not self.typed:
            line = sys.stdin.readline() if sys.stdin is not None else ""
            if not line:
                raise EOFError
            return line.rstrip("\r\n")
        whole = self._line(prompt)
        while whole.endswith("\\"):
            whole = whole[:-1] + "\n" + self._line("... ")
        return whole

    def _line(self, prompt: str) -> str:
        if self._shown:
            return input(prompt)
        # Answers go to a file: the prompt is for the person, and no answer.
        sys.stderr.write(prompt)
        sys.stderr.flush()
        return input()


def _have_editing() -> None:
    # Python may be built without it; then the terminal's own editing is all there is.
    with contextlib.suppress(ImportError):
        import readline

        # A paste of several lines is one message, and not as many as it has lines.
        readline.parse_and_bind("set enable-bracketed-paste on")
        readline.set_auto_history(True)
