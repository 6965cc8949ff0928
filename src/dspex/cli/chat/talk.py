"""The conversation: what is said, what comes back, and what is stopped."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console

import dspex
from dspex.cli.chat import slash
from dspex.cli.chat.lines import Lines
from dspex.cli.legible import legible
from dspex.cli.run import value_of
from dspex.cli.show import problem, summary
from dspex.cli.telling import tell

# What is typed for: each input's name and type.
Asked = dict[str, str | None]


class Talk:
    """A conversation in a session.

    Args:
        session: The session.
        answer: Gives the answer to inputs by name, to be told as it comes.
        asked: The inputs that are typed.
        lines: Reads them.
        as_json: Whether answers and errors are JSON, an object a line.

    Attributes:
        session: The session.
        failed: Whether a call has failed.
    """

    def __init__(
        self,
        session: dspex.Session,
        answer: Callable[[dict[str, Any]], dspex.Stream],
        asked: Asked,
        lines: Lines,
        *,
        as_json: bool,
    ) -> None:
        self.session = session
        self.failed = False
        self._answer = answer
        self._asked = asked
        self._lines = lines
        self._json = as_json
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        # Words stay whole on a terminal; elsewhere a line is a line, however long.
        self._console.soft_wrap = not self._console.is_terminal

    def tell(self, line: str) -> None:
        """Say something that is no answer."""
        self._console.print(legible(line), style="dim")

    def agrees(self, question: str) -> bool:
        """Whether the person agrees; nobody does where nobody types."""
        if not self._lines.typed:
            return False
        try:
            return self._lines.read(f"{question} [y/N] ").strip().lower() in {"y", "yes"}
        except (EOFError, KeyboardInterrupt):
            self._console.print()
            return False

    def go_on(self) -> None:
        """Read and answer until somebody leaves, or there is no more to read."""
        leaving = False
        while True:
            try:
                inputs = self._read()
            except EOFError:
                break
            except KeyboardInterrupt:
                self._console.print()
                if leaving:
                    return
                leaving = True
                self.tell("to leave: Ctrl-C once more, Ctrl-D or /quit")
                continue
            except slash.Leave:
                return
            except dspex.DspexError as error:
                self._trouble(error)
                continue
            leaving = False
            if inputs:
                self._say(inputs)
        if self._lines.typed:
            self._console.print()

    def _read(self) -> dict[str, Any]:
        """The inputs of the next turn; none after a command, or when nothing was typed."""
        inputs: dict[str, Any] = {}
        alone = len(self._asked) == 1
        for name, kind in self._asked.items():
            line = self._lines.read("> " if alone else f"{name}> ")
            # Through a pipe comes what was said, which nobody has looked at for commands.
            if self._lines.typed and line.startswith("/"):
                if not line.startswith("//"):
                    slash.run(self, line)
                    return {}
                line = line[1:]
            if not line.strip() and not inputs:
                return {}
            inputs[name] = line if kind in {"str", None} else value_of(line)
        return inputs

    def _say(self, inputs: dict[str, Any]) -> None:
        try:
            if self._json:
                response = self._whole(self._answer(inputs))
                print(json.dumps(response.to_dict(), ensure_ascii=False))
            else:
                response = tell(self._answer(inputs), as_json=False, waiting=self._lines.typed)
                if self._lines.typed:
                    summary(response)
            sys.stdout.flush()  # whoever reads a pipe waits for this answer before the next question
            if response.recorded is False:
                self.tell("this turn could not be stored: the next one will not know of it")
        except dspex.DspexError as error:
            self.failed = True
            self._trouble(error)
        except KeyboardInterrupt:
            self.tell("stopped")

    @staticmethod
    def _whole(stream: dspex.Stream) -> dspex.Response:
        with stream:
            for _ in stream:
                pass
        assert stream.response is not None
        return stream.response

    def _trouble(self, error: dspex.DspexError) -> None:
        if self._json:
            problem(error, as_json=True)
            return
        self._console.print(error.code, style="bold red", end=" ")
        self._console.print(legible(" ".join(error.message.split())))
