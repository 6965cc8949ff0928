"""Log lines: the standard library's, quiet unless somebody listens, as JSON or text where that is wanted.

Each line about a call has its ``request_id``. Lines have names, codes, sizes and times, and nothing of what
was said.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from dspex.telemetry.events import CallFinished

_calls = logging.getLogger("dspex.calls")
_ROOT = logging.getLogger("dspex")
# What every record has; the rest was given as ``extra``.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"color_message"}  # uvicorn's, the message once more
# Innermost frames of an exception that its line has.
_FRAMES = 10


class _Call:
    """A call that runs. What outlives it in its context has none any more."""

    __slots__ = ("request_id",)

    def __init__(self, request_id: str) -> None:
        self.request_id: str | None = request_id


_running: ContextVar[_Call | None] = ContextVar("dspex_call", default=None)


class about:  # noqa: N801 (it reads as a function, and is faster than one with a generator)
    """Lines of this task, and of those that it starts, are about a call until it ends.

    Args:
        request_id: The call's name.
    """

    __slots__ = ("_call", "_token")

    def __init__(self, request_id: str) -> None:
        self._call = _Call(request_id)

    def __enter__(self) -> None:
        self._token = _running.set(self._call)

    def __exit__(self, *_: object) -> None:
        self._call.request_id = None
        _running.reset(self._token)


def named(request_ids: list[str]) -> dict[str, Any]:
    """What a line about several calls has as its ``extra``."""
    known = [request_id for request_id in request_ids if request_id]
    return {"request_id": known[0]} if len(known) == 1 else {"request_ids": known} if known else {}


def _request_id(record: logging.LogRecord) -> str | None:
    call = _running.get()
    found: str | None = getattr(record, "request_id", None if call is None else call.request_id)
    return found


class JSONLines(logging.Formatter):
    """A line of JSON for each record: ``time``, ``level``, ``logger``, ``message``, ``request_id``, …"""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        said: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": _request_id(record),
        }
        said |= {name: value for name, value in vars(record).items() if name not in _USUAL}
        if record.exc_info and record.exc_info[0] is not None:
            # Its text may hold anything; where it was raised holds nothing.
            said["error"] = record.exc_info[0].__name__
            frames = traceback.extract_tb(record.exc_info[2])[-_FRAMES:]
            said["where"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        return json.dumps(said, default=lambda value: type(value).__name__, ensure_ascii=False)


class TextLines(logging.Formatter):
    """A line for people: time, level, logger, message, and the ``request_id`` unless the message has it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the library's name)
        """The line of a record, without its traceback."""
        line = super().formatMessage(record)
        found = _request_id(record)
        ids = [found] if found else getattr(record, "request_ids", [])
        about = ", ".join(one for one in ids if one not in line)
        return f"{line} [{about}]" if about else line


#: How lines may be written.
FORMS: dict[str, Callable[[], logging.Formatter]] = {"json": JSONLines, "text": TextLines}


class Lines(logging.StreamHandler[TextIO]):
    """Writes lines in one of the forms.

    Args:
        form: ``json`` or ``text``.
        stream: Where; None is standard error.
    """

    def __init__(self, form: str, stream: TextIO | None = None) -> None:
        super().__init__(stream or sys.stderr)
        self.setFormatter(FORMS[form]())


class Warnings(logging.StreamHandler[TextIO]):
    """Shows warnings and errors on standard error, as long as nobody writes ``Lines``: for commands."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setLevel(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        """Show it."""
        if not _are_written():
            super().emit(record)


def to_json(stream: TextIO | None = None, level: str = "info") -> logging.Handler:
    """Have dspex's log lines written as JSON, each with the call's ``request_id``.

    Args:
        stream: Where; None is standard error.
        level: From which level on: ``debug``, ``info``, ``warning`` or ``error``.

    Returns:
        The handler, which ``logging.getLogger("dspex").removeHandler`` takes away again.
    """
    handler = Lines("json", stream)
    _ROOT.addHandler(handler)
    _ROOT.setLevel(level.upper())
    return handler


class _Shared:
    """The one handler of all runtimes that want lines: of two in a process none has a line written twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._handler: Lines | None = None
        self._level = logging.NOTSET

    def opened(self, form: str) -> None:
        with self._lock:
            self._users += 1
            if _are_written():
                return  # by another runtime, or by an application that has set it up itself
            self._handler, self._level = Lines(form), _ROOT.level
            if self._level == logging.NOTSET:
                _ROOT.setLevel(logging.INFO)
            _ROOT.addHandler(self._handler)

    def closed(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._handler is not None:
                _ROOT.removeHandler(self._handler)
                _ROOT.setLevel(self._level)
                self._handler = None


_shared = _Shared()


def _are_written() -> bool:
    return any(isinstance(handler, Lines) for handler in _ROOT.handlers)


def opened(form: str | None) -> Callable[[], None]:
    """A runtime has lines written to standard error from now on, at level ``info`` unless another is set.

    Where lines are written already it stays as it is.

    Args:
        form: ``json`` or ``text``; None has none written.

    Returns:
        What ends it; to be called once.
    """
    if form is None:
        return lambda: None
    _shared.opened(form)
    return _shared.closed


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
