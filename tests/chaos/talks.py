"""What a provider was told by sessions: questions, each with the history that came with it."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from tests.provider import Provider, Reply, Request, delayed, echo, hanging

_TOKEN = re.compile(r"(?:ask|hold|slow)-[\w.]+")


class Said(NamedTuple):
    """One request.

    Attributes:
        history: The messages of the user's before it.
        message: The message.
    """

    history: list[str]
    message: str


def reply(request: Request) -> Reply:
    """``hold-…`` is not answered, ``slow-…`` late, all else at once; an answer is the message."""
    message = said(request).message
    if message.startswith("hold-"):
        return hanging()
    return delayed(1.5, echo()) if message.startswith("slow-") else echo()


def said(request: Request) -> Said:
    """What a request said."""
    texts = [json.dumps(one["content"]) for one in request.body["messages"] if one["role"] == "user"]
    *history, message = [_TOKEN.findall(text)[-1] for text in texts]
    return Said(history, message)


def heard(provider: Provider) -> list[Said]:
    """All requests so far."""
    return [said(request) for request in provider.requests]
