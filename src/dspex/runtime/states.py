"""Saved states that calls name: read once, and again when the file has changed."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from dspex.errors import DspexError
from dspex.program.saved import Given, Saved, read
from dspex.runtime.question import Question

_KEPT = 32
_BYTES_KEPT = 16 * 1024 * 1024
#: What tells one content of a file from the next: a file that is replaced is another, and one that is
#: written to has another time.
_Stamp = tuple[int, int, int, int]


class States:
    """The states of a runtime's calls, by the file that they were read from. Used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Path, tuple[_Stamp, Saved]] = OrderedDict()

    @staticmethod
    def waits(question: Question) -> bool:
        """Whether a question has a state that is still to be read, which is not done on an event loop."""
        return _given(question) is not None

    def loaded(self, question: Question) -> Question:
        """The question with its state read.

        Raises:
            InvalidOption: There is no such file, or it holds no state.
            PayloadTooLarge: It is too large to go with a call.
        """
        given = _given(question)
        if given is None:
            return question
        try:
            return replace(question, options={**question.options, "state": self.read(given)})
        except DspexError as error:
            raise error.for_request(question.request_id)  # noqa: B904 (it is the same error)

    def read(self, given: Given) -> Saved:
        """A state, see ``dspex.program.saved.read``."""
        if not isinstance(given, str | os.PathLike):
            return read(given)
        path = Path(given).absolute()
        stamp = _stamp(path)
        with self._lock:
            stored = self._kept.get(path)
        if stored is not None and stored[0] == stamp:
            return stored[1]
        saved = read(given)
        # A file that changes while it is read has another stamp by now, and is read again by the next.
        if stamp is not None and _stamp(path) == stamp:
            with self._lock:
                self._keep(path, stamp, saved)
        return saved

    def _keep(self, path: Path, stamp: _Stamp, saved: Saved) -> None:
        self._kept[path] = (stamp, saved)
        self._kept.move_to_end(path)
        size = sum(len(one.encoded) for _, one in self._kept.values())
        while len(self._kept) > 1 and (len(self._kept) > _KEPT or size > _BYTES_KEPT):
            size -= len(self._kept.popitem(last=False)[1][1].encoded)


def _given(question: Question) -> Given | None:
    options = question.options
    given = options.get("state") if isinstance(options, Mapping) else None
    return None if isinstance(given, Saved) else given


def _stamp(path: Path) -> _Stamp | None:
    try:
        told = path.stat()
    except (OSError, ValueError):
        return None
    return (told.st_dev, told.st_ino, told.st_mtime_ns, told.st_size)
