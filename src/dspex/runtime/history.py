"""The turns of a session as the history that a model is told."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from dspex.program import prompt
from dspex.program.fieldtypes import HISTORY
from dspex.program.signature import Signature
from dspex.runtime.question import Question
from dspex.runtime.steps import OnLoop, Steps
from dspex.settings import Settings
from dspex.wire.values import decode

if TYPE_CHECKING:
    from dspex.runtime.core import Core
    from dspex.session.turns import Opened, Past

# Bytes that are taken for a token.
_TOKEN = 4
# How often the store is asked for older turns when many of the later ones are of other signatures.
_PAGES = 20


def wanted(question: Question, signature: Signature | None) -> str | None:
    """The input that the session's history fills; None when there is none, or the caller gives one."""
    if signature is None or not (question.prompt is None or isinstance(question.prompt, str)):
        return None
    given = prompt.mapping(question.inputs)
    names = (field.name for field in signature.inputs if field.type == HISTORY)
    return next((name for name in names if given.get(name) is None), None)


def told(core: Core, opened: Opened, signature: Signature) -> Steps[list[dict[str, Any]]]:
    """The history of a turn, in order.

    Args:
        core: The runtime's core, whose store has the turns.
        opened: The turn, with the first page of those before it.
        signature: Whose inputs and outputs are told.

    Raises:
        StoreError: Older turns could not be read.
    """
    entries, page = _Entries(signature, core.settings), opened.history
    for _ in range(_PAGES):
        if not entries.take(page) or len(page) < core.settings.history_turns:
            break
        page = yield OnLoop(partial(_older, core, opened, page[-1].number))
    return entries.in_order()


async def _older(core: Core, opened: Opened, before: int) -> list[Past]:
    from dspex.session import turns

    most = core.settings.history_turns
    return await core.sessions.read(
        lambda connection: turns.recent(connection, opened.session, most, before=before)
    )


class _Entries:
    """Of the latest turns as many as there is room for."""

    def __init__(self, signature: Signature, settings: Settings) -> None:
        self._inputs = [field.name for field in signature.inputs if field.type != HISTORY]
        self._outputs = [field.name for field in signature.outputs]
        self._most = settings.history_turns
        self._room = settings.history_tokens * _TOKEN
        self._latest_first: list[dict[str, Any]] = []

    def take(self, page: list[Past]) -> bool:
        """Take what is the signature's of some turns, the latest first; whether there is room for more."""
        for turn in page:
            entry = self._entry(turn)
            if entry is None:
                continue
            self._room -= len(turn.inputs) + len(turn.outputs)
            if self._room < 0 or len(self._latest_first) == self._most:
                return False
            self._latest_first.append(entry)
        return len(self._latest_first) < self._most

    def _entry(self, turn: Past) -> dict[str, Any] | None:
        said = dict(_those(self._inputs, turn.inputs))
        answered = dict(_those(self._outputs, turn.outputs)) if said else {}
        return said | answered if answered else None

    def in_order(self) -> list[dict[str, Any]]:
        """What was taken."""
        return self._latest_first[::-1]


def _those(names: list[str], encoded: bytes) -> Iterator[tuple[str, Any]]:
    values = decode(encoded)
    return ((name, values[name]) for name in names if name in values)
