"""What becomes of a failure of a caller's function: something for the model to read, or the call's end."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType

from dspex.errors import BudgetExceeded, DspexError, LMError, PythonTimeout, ToolError
from dspex.program.toolspec import CallersTool

# What ends the call when it comes out of a tool, with its own code.
_PASS = (LMError, BudgetExceeded, PythonTimeout)
# As many frames as DSPy shows a model, and the most characters.
_FRAMES = 5
_TEXT_KEPT = 16_000
_HERE = str(Path(__file__).parents[1])


class Denied(Exception):
    """Its approval did not agree to a call."""


class NoVerdict(TypeError):
    """An approval gave something else than a verdict: nobody has agreed."""


def told(tool: CallersTool, error: BaseException) -> DspexError:
    """What the worker is told of a failure: the call's end, or something for the model to read."""
    name = tool.spec.name
    if isinstance(error, _PASS):
        return error
    if isinstance(error, Denied):
        reason = str(error)
        return ToolError(f"{name} was not called: {reason}", details={"tool": name, "denied": reason})
    message = _text(error)
    kind = type(error).__qualname__
    # An Exception is for the model; anything else is not for anybody to go on after.
    fatal = tool.spec.fatal or not isinstance(error, Exception) or isinstance(error, NoVerdict)
    return ToolError(
        f"the tool {name} failed: {kind}: {message}"[:_TEXT_KEPT],
        details={
            "tool": name,
            "type": kind,
            "message": message[:_TEXT_KEPT],
            "text": shown(error)[:_TEXT_KEPT],
            "fatal": fatal,
        },
    )


def _text(error: BaseException) -> str:
    try:
        return str(error).encode("utf-8", "replace").decode()
    except Exception:  # noqa: BLE001 (a class of the user's may do anything here)
        return "(what it says cannot be read)"


def shown(error: BaseException) -> str:
    """An exception as DSPy shows it to a model, without the frames that are not the function's own."""
    try:
        trace: TracebackType | None = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_HERE):
            trace = trace.tb_next
        lines = traceback.format_exception(type(error), error, trace, limit=_FRAMES)
        return "".join(lines).strip().encode("utf-8", "replace").decode()
    except Exception:  # noqa: BLE001 (as above)
        return type(error).__qualname__
