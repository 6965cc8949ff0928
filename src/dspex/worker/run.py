"""Run a program for one call."""

from __future__ import annotations

from typing import Any

import dspy

from dspex.errors import LMNotConfigured
from dspex.wire.values import encode_result
from dspex.worker import engine
from dspex.worker.build import Program
from dspex.worker.users import UserProgram, require_prediction
from dspex.worker.validate import check_inputs

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


async def run_program(program: Program, inputs: dict[str, Any], lm: dspy.LM, adapter: Any) -> list[bytes]:
    """Run the program and return its outputs as an encoded value, in pieces.

    The value is a dict with ``outputs``, and with ``completions`` (a list of such outputs) when the model
    was asked for several.

    Raises:
        InvalidInput: An input was refused; no LM was asked.
    """
    checked = check_inputs(program.signature, program.types, inputs)
    with _context(lm, adapter):
        prediction = await program.module.acall(**checked)
    return _answer(prediction, program.outputs)


def run_blocking(program: UserProgram, inputs: dict[str, Any], lm: dspy.BaseLM, adapter: Any) -> list[bytes]:
    """Run a program of the user's own by its ``forward``; as ``run_program``."""
    checked = program.check(inputs)
    with _context(lm, adapter):
        prediction = program.module(**checked)
    return _users_answer(program, prediction)


async def run_awaited(
    program: UserProgram, inputs: dict[str, Any], lm: dspy.BaseLM, adapter: Any
) -> list[bytes]:
    """Run a program of the user's own by its ``aforward``; as ``run_program``."""
    checked = program.check(inputs)
    with _context(lm, adapter):
        prediction = await program.module.acall(**checked)
    return _users_answer(program, prediction)


def _context(lm: dspy.BaseLM, adapter: Any) -> Any:
    return dspy.context(lm=lm, adapter=adapter, **_QUIET, **{engine.IN_DSPY: engine.current.get(None)})


def _users_answer(program: UserProgram, prediction: Any) -> list[bytes]:
    require_prediction(program.path, prediction)
    return _answer(prediction, tuple(prediction.keys()))


def _answer(prediction: Any, names: tuple[str, ...]) -> list[bytes]:
    answer: dict[str, Any] = {"outputs": {name: _plain(prediction[name]) for name in names}}
    completions = prediction.completions
    if completions is not None and len(completions) > 1:
        answer["completions"] = [
            {name: _plain(completions[name][index]) for name in names} for index in range(len(completions))
        ]
    return encode_result(answer)


def _plain(value: Any) -> Any:
    # DSPy's reasoning is text that may have come by the provider's own channel for it.
    return str(value) if isinstance(value, dspy.Reasoning) else value
