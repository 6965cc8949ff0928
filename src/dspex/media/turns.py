"""What a conversation is made of: turns, calls of tools, quotations. Their fields are DSPy's."""

from __future__ import annotations

from typing import Any

import msgspec


class History(msgspec.Struct, frozen=True):
    """A conversation so far.

    Example:
        >>> len(History([{"question": "What is 2 + 2?", "answer": "4"}]).messages)
        1

    Attributes:
        messages: Its turns in order, each a dict of the signature's fields.
    """

    messages: list[dict[str, Any]]


class ToolCall(msgspec.Struct, frozen=True, omit_defaults=True, repr_omit_defaults=True):
    """A tool that a model wants to have called.

    Attributes:
        name: The tool.
        args: Its arguments by name.
        id: What the provider calls this call, so that a result can be told to be its.
    """

    name: str
    args: dict[str, Any]
    id: str | None = None


class ToolCalls(msgspec.Struct, frozen=True, omit_defaults=True, repr_omit_defaults=True):
    """The tools that a model wants to have called in one turn.

    Attributes:
        tool_calls: Each of the calls.
        tool_call_results: What came of them, once they were made.
    """

    tool_calls: list[ToolCall]
    tool_call_results: Any = None


class Citation(msgspec.Struct, frozen=True, kw_only=True):
    """One quotation, with the place where it stands.

    Attributes:
        cited_text: The words quoted.
        document_index: Which of the documents, from 0.
        start_char_index: Where it begins there, in characters.
        end_char_index: Where it ends, the first character after it.
        document_title: What the document is called.
        supported_text: The words of the answer that it stands behind.
        type: How the place is told.
    """

    cited_text: str
    document_index: int
    start_char_index: int
    end_char_index: int
    document_title: str | None = None
    supported_text: str | None = None
    type: str = "char_location"


class Citations(msgspec.Struct, frozen=True):
    """What a model quoted for an answer.

    Attributes:
        citations: Each quotation in order.
    """

    citations: list[Citation]
