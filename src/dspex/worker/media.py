"""DSPy's typed values in a worker: their classes by name, and text of a type that is more than text."""

from __future__ import annotations

import binascii
from typing import Any

import dspy
from dspy.adapters.types.citation import Citations
from dspy.adapters.types.document import Document

from dspex.media.text import Code, Reasoning
from dspex.program.fieldtypes import CODE, CODE_IN, HISTORY
from dspex.wire.own import code_class, key

#: What the types of a signature stand for, by their canonical names.
BY_TYPE: dict[str, Any] = {
    HISTORY: dspy.History,
    CODE: dspy.Code,
    CODE_IN: lambda language: code_class(dspy.Code, language),
    "dspy.Audio": dspy.Audio,
    "dspy.File": dspy.File,
    "dspy.Image": dspy.Image,
    "dspy.Reasoning": dspy.Reasoning,
    "dspy.ToolCalls": dspy.ToolCalls,
    "dspy.experimental.Citations": Citations,
    "dspy.experimental.Document": Document,
}
#: What typed values become when inputs of a program are read. ``Code`` and ``Reasoning`` are not here: they
#: are text, and become DSPy's only where a field says so, since an answer's reasoning may well be given on
#: as the text of the next question.
FOR_PROGRAMS: dict[str, type] = {
    key(kind.__name__): kind
    for kind in (
        Citations,
        Citations.Citation,
        Document,
        dspy.Audio,
        dspy.File,
        dspy.History,
        dspy.Image,
        dspy.ToolCalls,
        dspy.ToolCalls.ToolCall,
    )
}


def as_declared(annotation: Any, value: Any) -> Any:
    """Text of a type of its own as its field wants it: as DSPy's where it declares that, else as text.

    DSPy's own conversion would take the marks off code that are part of it, and knows no language.
    """
    if isinstance(value, Code) and is_code(annotation):
        return annotation.model_construct(code=value.code)
    if isinstance(value, Reasoning) and annotation is dspy.Reasoning:
        return dspy.Reasoning.model_construct(content=value.content)
    if isinstance(value, Code | Reasoning):
        return str.__str__(value)
    return value


def is_code(annotation: Any) -> bool:
    """Whether a type is ``dspy.Code``, in whatever language."""
    return isinstance(annotation, type) and issubclass(annotation, dspy.Code)


def fault_of(value: Any) -> str | None:
    """What is wrong with the data of a file, which an engine would find only in the middle of its request."""
    if isinstance(value, dspy.Audio):
        return None if _is_base64(value.data) else "the data of an Audio have to be base64"
    url = getattr(value, "url" if isinstance(value, dspy.Image) else "file_data", None)
    if not isinstance(value, dspy.Image | dspy.File) or url is None:
        return None
    head, comma, data = url.partition(",")
    if head.startswith("data:") and not (head.endswith(";base64") and comma and data and _is_base64(data)):
        return f"a data URL of {type(value).__name__} has to be 'data:<media type>;base64,<data>'"
    if isinstance(value, dspy.File) and not head.startswith("data:"):
        return "file_data of a File have to be a data URL"
    return None


def _is_base64(text: str) -> bool:
    try:
        binascii.a2b_base64(text, strict_mode=True)
    except ValueError:  # also where it is not ASCII
        return False
    return True
