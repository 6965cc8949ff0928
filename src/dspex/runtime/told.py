"""What a stream tells while its call runs. The tokens of a request are a ``Usage``, a tool a ``ToolCall``."""

from __future__ import annotations

from typing import Any

import msgspec


class Started(msgspec.Struct, frozen=True):
    """A worker has begun.

    Attributes:
        request_id: The call's name, as in its errors.
        worker: Number of the worker in its pool.
        stage: Which stage of the program begins, from 1.
    """

    request_id: str
    worker: int
    stage: int = 1


class Delta(msgspec.Struct, frozen=True):
    """The next piece of an output.

    Joined, the pieces of a field are its text, or its JSON when it is no text.

    Attributes:
        field: The output's name.
        text: The piece.
        stage: The stage that it is an output of, from 1.
    """

    field: str
    text: str
    stage: int = 1


class Status(msgspec.Struct, frozen=True):
    """What the program does now.

    Attributes:
        text: That in words, for people.
        stage: The stage that does it, from 1.
    """

    text: str
    stage: int = 1


class ToolResult(msgspec.Struct, frozen=True):
    """What a tool gave.

    Attributes:
        name: The tool.
        value: What it returned; None when it failed, and when it is larger than 64 KiB or cannot be sent.
        error: Why it failed or was not called; None when it returned.
        stage: The stage that called it, from 1.
    """

    name: str
    value: Any = None
    error: str | None = None
    stage: int = 1
