"""Run a program for one call."""

from __future__ import annotations

from typing import Any

import dspy

from dspex.errors import LMNotConfigured
from dspex.wire.values import encode_result
from dspex.worker import engine
from dspex.worker.built import Runnable
from dspex.worker.sandbox.choose import Factory

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
    with _context(lm, adapter):
        prediction = program.module(**checked)
    return _answer(program, prediction)


async def run_awaited(
    program: Runnable, inputs: dict[str, Any], lm: dspy.BaseLM, adapter: Any
) -> list[bytes]:
    """``run_blocking`` for a program that has an asynchronous form."""
    checked = program.check(inputs)
    with _context(lm, adapter):
        prediction = await program.module.acall(**checked)
    return _answer(program, prediction)


def _context(lm: dspy.BaseLM, adapter: Any) -> Any:
    return dspy.context(
        lm=lm,
        adapter=adapter,
        # A program of the user's may hold modules that run code; DSPy's own sandbox has no limit of time.
        interpreter_factory=Factory("auto"),
        **_QUIET,
        **{engine.IN_DSPY: engine.current.get(None)},
    )


def _answer(program: Runnable, prediction: Any) -> list[bytes]:
    names = program.outputs_of(prediction)
    answer: dict[str, Any] = {"outputs": {name: _plain(prediction[name]) for name in names}}
    completions = prediction.completions
    if completions is not None and len(completions) > 1:
        answer["completions"] = [
            {name: _plain(completions[name][index]) for name in names} for index in range(len(completions))
        ]
    called = engine.scope_of_call().tool_calls
    if called:
        answer["tool_calls"] = called
    return encode_result({**answer, **program.told_by(prediction)})


def _plain(value: Any) -> Any:
    # DSPy's reasoning is text that may have come by the provider's own channel for it.
    return str(value) if isinstance(value, dspy.Reasoning) else value
