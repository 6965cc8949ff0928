"""A stream on the command line: outputs as they come on standard output, what else happens beside it."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.status import Status as Spinner

import dspex
from dspex.cli.legible import legible, to_output
from dspex.runtime.stream_command import plain
from dspex.wire.jsonready import json_ready


def tell(stream: dspex.Stream, *, as_json: bool, waiting: bool = True) -> dspex.Response:
    """Show a stream while it comes, and give its response.

    On a terminal a dim line says what happens between the outputs; in a pipe there is nothing but these.

    Args:
        stream: The stream; it is closed.
        as_json: Whether to print each event as a JSON object on a line.
        waiting: Whether to show on a terminal that something goes on until the first event comes.

    Raises:
        DspexError: What the call ended with; what was printed by then has a line of its own.
    """
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    told = _Lines(console)
    spinner: Spinner | None = None
    if waiting and not as_json and console.is_terminal:
        spinner = console.status("[dim]…  Ctrl-C stops it", spinner="dots")
        spinner.start()
    try:
        with stream:
            for event in stream:
                if spinner is not None and not isinstance(event, dspex.Started):
                    spinner.stop()
                    spinner = None
                if as_json:
                    print(json.dumps(_plain(event), ensure_ascii=False), flush=True)
                elif isinstance(event, dspex.Delta) and stream.is_output(event):
                    told.piece(event, alone=stream.has_one_output)
                elif console.is_terminal:
                    told.beside(event)
                if isinstance(event, dspex.Final):
                    return event.response
    finally:
        if spinner is not None:
            spinner.stop()
        told.end()
    raise AssertionError("a stream ends with Final or an error")


def _plain(event: Any) -> dict[str, Any]:
    if isinstance(event, dspex.Final):
        return {"type": "final", "response": event.response.to_dict()}
    ready: dict[str, Any] = json_ready(plain(event))
    return ready


def _shown(value: Any) -> str:
    return json.dumps(json_ready(value), ensure_ascii=False)


class _Lines:
    """Pieces of outputs: the first one's text alone as it is, several each behind its name."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._field: str | None = None

    def piece(self, delta: dspex.Delta, *, alone: bool) -> None:
        """Print a piece of an output."""
        if delta.field != self._field:
            self.end()
            print("" if alone else f"{delta.field}: ", end="")
            self._field = delta.field
        print(to_output(delta.text), end="", flush=True)

    def beside(self, event: Any) -> None:
        """Say on standard error what happens."""
        match event:
            case dspex.Status(text=text):
                said = text
            case dspex.ToolCall(name=name, args=args):
                said = f"{name}({', '.join(f'{key}={_shown(args[key])}' for key in args)})"
            case dspex.ToolResult(name=name, error=str(error)):
                said = f"{name} failed: {error}"
            case dspex.ToolResult(name=name, value=value):
                said = f"{name} gave {_shown(value)}"
            case _:
                return
        self.end()
        self._console.print(legible(said[:200]), style="dim")

    def end(self) -> None:
        """End the line that was begun."""
        if self._field is not None:
            print(flush=True)
            self._field = None
