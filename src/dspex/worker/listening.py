"""From a model's reply, as it comes, to the texts of a program's outputs.

DSPy's own listeners are one per field, hold a dozen tokens back and mistake JSON's quotes for text; ours
read a reply once, with a reader for each of DSPy's formats.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import dspy
from dspy.clients.call_context import stream_emitted
from dspy.utils.callback import BaseCallback

from dspex.worker.readers.chat import ChatReader
from dspex.worker.readers.jsontext import JSONReader
from dspex.worker.readers.xmltext import XMLReader


class Reader(Protocol):
    """Takes a reply apart while it comes; see ``readers``."""

    def feed(self, text: str) -> list[tuple[str, str]]: ...

    def end(self) -> list[tuple[str, str]]: ...


# By the exact class: one of the user's own may read replies in its own way.
_READERS: Mapping[type, type[ChatReader] | type[JSONReader] | type[XMLReader]] = {
    dspy.ChatAdapter: ChatReader,
    dspy.JSONAdapter: JSONReader,
    dspy.XMLAdapter: XMLReader,
}


@dataclass(slots=True, eq=False)
class Heard:
    """A predictor that runs, whose outputs are those of the program.

    Attributes:
        predict: The predictor.
        adapter: What has written its last prompt.
        signature: What that prompt asks for.
        sent: Whether a delta went out.
    """

    predict: Any
    adapter: Any = None
    signature: Any = None
    sent: bool = field(default=False)

    def reader(self) -> Reading | None:
        """Reads the reply to the prompt that was written last; None when it gives no texts piecewise."""
        made = _READERS.get(type(self.adapter))
        if made is None or self.signature is None or self.sent:
            return None
        outputs = self.signature.output_fields
        texts = [name for name, output in outputs.items() if output.annotation in {str, dspy.Reasoning}]
        # What the provider gives as the model's thinking is not asked for in the prompt.
        thoughts = [
            name
            for name, output in self.predict.signature.output_fields.items()
            if output.annotation is dspy.Reasoning and name not in outputs
        ]
        return Reading(self, made(texts), thoughts[0] if thoughts else None)


class Reading:
    """One reply, as it comes.

    Args:
        heard: Whose.
        reader: Takes it apart.
        thoughts: The field that has what the model thinks, if it is no part of the reply's text.

    Attributes:
        began: Monotonic second at which its first event came; None before.
    """

    def __init__(self, heard: Heard, reader: Reader, thoughts: str | None) -> None:
        self.began: float | None = None
        self._heard = heard
        self._reader = reader
        self._thoughts = thoughts

    @property
    def sent(self) -> bool:
        """Whether something of it was told."""
        return self._heard.sent

    def pieces(self, event: Any) -> Sequence[tuple[str, str]]:
        """The pieces of fields that an event of the engine's stream brings."""
        if self.began is None:
            self.began = time.monotonic()
        if event.type == "end":
            pieces = self._reader.end()
        elif event.type != "delta":
            return ()
        elif event.delta.type == "text":
            pieces = self._reader.feed(event.delta.text)
        elif event.delta.type == "thinking" and self._thoughts is not None and event.delta.text:
            pieces = [(self._thoughts, event.delta.text)]
        else:
            return ()
        if pieces and not self._heard.sent:
            self._heard.sent = True
            stream_emitted()  # DSPy asks for the same in another format only before this
        return pieces


heard: ContextVar[Heard | None] = ContextVar("dspex_heard", default=None)


def reading() -> Reading | None:
    """For the LM request that is made now: what takes its reply apart; None when nobody listens to it."""
    listened = heard.get()
    return None if listened is None else listened.reader()


class Listener(BaseCallback):  # type: ignore[misc]
    """Sees which predictor asks, and in which format.

    Args:
        answers: The predictors whose outputs are the program's.
        status: Told what the program does, in words.
    """

    def __init__(self, answers: Sequence[Any], status: Any) -> None:
        self._answers = answers
        self._status = status

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:  # noqa: ARG002
        """A predictor begins."""
        if not isinstance(instance, dspy.Predict):
            return
        if any(instance is answer for answer in self._answers):
            heard.set(Heard(instance))
        else:
            heard.set(None)
            self._status(f"asking for {', '.join(instance.signature.output_fields)}")

    def on_adapter_format_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:  # noqa: ARG002
        """A prompt is written."""
        listened = heard.get()
        if listened is not None:
            listened.adapter, listened.signature = instance, inputs.get("signature")
