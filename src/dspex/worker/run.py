"""Run a program for one call."""

from __future__ import annotations

from typing import Any

import dspy

from dspex.errors import LMNotConfigured
from dspex.program.fieldtypes import REASONING
from dspex.program.signature import Signature
from dspex.wire.values import encode_result
from dspex.worker import engine, shapes
from dspex.worker.built import Program, Runnable
from dspex.worker.listening import Listener
from dspex.worker.sandbox.choose import Factory
from dspex.worker.traced import ModuleSpans

# Per call, never ``dspy.configure``: that belongs to one thread, and history and trace grow for ever.
_QUIET = {
    "disable_history": True,
    "max_trace_size": 0,
    "max_history_size": 0,
    "warn_on_type_mismatch": False,  # ill-typed inputs were refused before
}


class Nobody(dspy.BaseLM):  # type: ignore[misc]
    """The LM of a call that has none: to ask it fails."""

    def __init__(self) -> None:
        super().__init__("nobody")

    def __call__(self, *_: Any, **__: Any) -> Any:
        """There is no answer."""
        raise LMNotConfigured("the program asks a language model, and the call has none")

    async def acall(self, *_: Any, **__: Any) -> Any:
        """There is none."""
        return self()


def run_blocking(program: Runnable, inputs: dict[str, Any], lm: dspy.BaseLM, adapter: Any) -> list[bytes]:
    """Run a program that has no asynchronous form, and return its answer as an encoded value, in pieces.

    The value is a dict with ``outputs``, with ``completions`` (a list of such outputs) when the model was
    asked for several, and with what else the program tells.

    Raises:
        InvalidInput: An input was refused; no LM was asked.
    """
    checked = program.check(inputs)
    with _context(program, lm, adapter):
        prediction = program.module(**checked)
    return _answer(program, prediction, adapter)


async def run_awaited(
    program: Runnable, inputs: dict[str, Any], lm: dspy.BaseLM, adapter: Any
) -> list[bytes]:
    """``run_blocking`` for a program that has an asynchronous form."""
    checked = program.check(inputs)
    with _context(program, lm, adapter):
        prediction = await program.module.acall(**checked)
    return _answer(program, prediction, adapter)


def _context(program: Runnable, lm: dspy.BaseLM, adapter: Any) -> Any:
    if isinstance(program, Program) and program.generation:
        # A copy asks through the same engines, and so through the same connections.
        lm = lm.copy(**program.generation)
    scope = engine.scope_of_call()
    listeners: list[Any] = []
    if scope.stream is not None:
        listeners.append(Listener(program.answers, scope.stream.status))
    if scope.spans is not None:
        listeners.append(ModuleSpans(scope.spans, program))
    listens = {"callbacks": [*dspy.settings.get("callbacks", []), *listeners]} if listeners else {}
    return dspy.context(
        lm=lm,
        adapter=adapter,
        **listens,
        # A program of the user's may hold modules that run code; DSPy's own sandbox has no limit of time.
        interpreter_factory=Factory("auto"),
        **_QUIET,
        **{engine.IN_DSPY: engine.current.get(None)},
    )


def _answer(program: Runnable, prediction: Any, adapter: Any) -> list[bytes]:
    names = program.outputs_of(prediction)
    typed = _reasonings(program)
    answer: dict[str, Any] = {"outputs": {name: _plain(prediction[name], name in typed) for name in names}}
    completions = prediction.completions
    if completions is not None and len(completions) > 1:
        answer["completions"] = [
            {name: _plain(completions[name][index], name in typed) for name in names}
            for index in range(len(completions))
        ]
    scope = engine.scope_of_call()
    if scope.tool_calls:
        answer["tool_calls"] = scope.tool_calls
    if scope.messages is not None:
        answer["messages"] = scope.messages
    if scope.built:
        answer["built"] = scope.built
    if adapter is not None:
        answer["adapter"] = type(adapter).__name__
    answer |= program.told_by(prediction)
    # Of classes that were made for this signature its caller knows nothing.
    has_shapes = getattr(getattr(program, "signature", None), "shapes", ())
    return encode_result(shapes.plain(answer) if has_shapes else answer)


def _reasonings(program: Runnable) -> set[str]:
    """The outputs that the caller declared as reasoning; a program of the user's own has no signature."""
    signature: Signature | None = getattr(program, "signature", None)
    return {field.name for field in signature.outputs if field.type == REASONING} if signature else set()


def _plain(value: Any, is_typed: bool) -> Any:
    # The reasoning that a module adds by itself is text to its caller, whatever way it came by.
    return str(value) if isinstance(value, dspy.Reasoning) and not is_typed else value
