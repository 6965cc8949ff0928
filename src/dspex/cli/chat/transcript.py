"""A conversation as text that people read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from dspex.session.records import Turn
from dspex.wire.jsonready import json_ready


def markdown(session_id: str, turns: list[Turn]) -> str:
    """A conversation as Markdown.

    Args:
        session_id: The session it was in.
        turns: Its turns in order.
    """
    parts = [f"# {session_id}"]
    for turn in turns:
        began = datetime.fromtimestamp(turn.started).astimezone().strftime("%Y-%m-%d %H:%M")
        parts.append(f"## {turn.number} · {began}")
        parts.append(_fields(turn.inputs, "You"))
        if turn.status == "ok":
            parts.append(_fields(turn.outputs, turn.model or "Answer"))
        else:
            parts.append(f"*{said(turn)}*")
    return "\n\n".join(parts) + "\n"


def said(turn: Turn) -> str:
    """How a turn ended that was not answered."""
    if turn.status == "cancelled":
        return "stopped"
    return f"{turn.error['code']}: {turn.error['message']}" if turn.error else turn.status


def shown(values: Mapping[str, Any] | None) -> str:
    """Inputs or outputs in a few words: one alone as it is, several behind their names."""
    told = {name: text(value) for name, value in (values or {}).items()}
    if len(told) == 1:
        return next(iter(told.values()))
    return ", ".join(f"{name}: {value}" for name, value in told.items())


def text(value: Any) -> str:
    """One value as text."""
    return value if isinstance(value, str) else json.dumps(json_ready(value), ensure_ascii=False)


def _fields(values: Mapping[str, Any] | None, who: str) -> str:
    if not values:
        return f"**{who}:** (not kept)"
    if len(values) == 1:
        return f"**{who}:** {text(next(iter(values.values())))}"
    return "\n\n".join(f"**{who}, {name}:** {text(value)}" for name, value in values.items())
