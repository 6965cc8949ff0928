"""Log lines: the standard library's, quiet unless somebody listens, as JSON where that is wanted.

Each line about a call has its ``request_id``. Lines have names, codes, sizes and times, and nothing of what
was said.
"""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

from dspex.telemetry.events import CallFinished

#: The call that the running task works for.
request_id: ContextVar[str | None] = ContextVar("dspex_request_id", default=None)
_calls = logging.getLogger("dspex.calls")
_ROOT = logging.getLogger("dspex")
# What every record has; the rest was given as ``extra``.
_USUAL = frozenset(vars(logging.makeLogRecord({})))


class JSONLines(logging.Formatter):
    """A line of JSON for each record: ``time``, ``level``, ``logger``, ``message``, ``request_id``, …"""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        said: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": request_id.get(),
        }
        said |= {name: value for name, value in vars(record).items() if name not in _USUAL}
        if record.exc_info and record.exc_info[0] is not None:
            # Its text may hold anything; where it was raised holds nothing.
            said["error"] = record.exc_info[0].__name__
        return json.dumps(said, default=lambda value: type(value).__name__, ensure_ascii=False)


def to_json(stream: TextIO | None = None, level: str = "info") -> logging.Handler:
    """Have dspex's log lines written as JSON, each with the call's ``request_id``.

    Args:
        stream: Where; None is standard error.
        level: From which level on: ``debug``, ``info``, ``warning`` or ``error``.

    Returns:
        The handler, which ``logging.getLogger("dspex").removeHandler`` takes away again.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JSONLines())
    _ROOT.addHandler(handler)
    _ROOT.setLevel(level.upper())
    return handler


def hears() -> bool:
    """Whether anybody reads a line for each call."""
    return _calls.isEnabledFor(logging.INFO)


def hear(event: CallFinished) -> None:
    """Write a line for a call that has ended, at level ``info``."""
    _calls.info(
        "%s: %s after %.3f s",
        event.module,
        event.code,
        event.total,
        extra={
            "request_id": event.request_id,
            "pool": event.pool,
            "dspy_module": event.module,
            "program": event.program,
            "code": event.code,
            "model": event.model,
            "queued": round(event.queued, 6),
            "run": round(event.run, 6),
            "total": round(event.total, 6),
            "prompt_tokens": event.prompt_tokens,
            "completion_tokens": event.completion_tokens,
            "attempts": event.attempts,
            "cached": event.cached,
        },
    )
