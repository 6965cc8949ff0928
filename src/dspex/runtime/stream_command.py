"""The command ``stream``: what happens in ``execute_module`` while it runs, as plain data."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec

from dspex.media.turns import ToolCall
from dspex.runtime.feed import Ended
from dspex.runtime.stages import Ran
from dspex.runtime.streams import LiveCall
from dspex.runtime.told import Delta, Started, Status, ToolResult
from dspex.types import Usage

_NAMES: dict[type[Any], str] = {
    Started: "started",
    Delta: "delta",
    Status: "status",
    ToolCall: "tool_call",
    ToolResult: "tool_result",
    Usage: "usage",
}


def events(call: LiveCall) -> Iterator[dict[str, Any]]:
    """Begin a call, and give what it tells: dicts with a ``type``, the last with the ``outputs``."""
    call.begin()
    try:
        while True:
            yield plain(call.feed.take())
    except Ended as ended:
        yield _final(ended)
    finally:
        call.close()


async def aevents(call: LiveCall) -> AsyncIterator[dict[str, Any]]:
    """``events`` for event loops."""
    call.begin()
    try:
        while True:
            yield plain(await call.feed.atake())
    except Ended as ended:
        yield _final(ended)
    finally:
        call.cancel()


def plain(event: Any) -> dict[str, Any]:
    """An event as a dict with its ``type``, such as ``{"type": "delta", "field": ..., "text": ...}``."""
    return {"type": _NAMES[type(event)], **msgspec.structs.asdict(event)}


def _final(ended: Ended) -> dict[str, Any]:
    if ended.error is not None:
        raise ended.error
    ran: Ran = ended.result
    return {"type": "final", "outputs": ran.outputs}
