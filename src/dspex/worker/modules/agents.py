"""``ReAct`` and ``ReActV2``: a model that calls tools until it can answer."""

from __future__ import annotations

import json
import warnings
from types import SimpleNamespace
from typing import Any

import dspy
from dspy.adapters.utils import serialize_for_json

from dspex.errors import ParseError
from dspex.program.spec import ProgramSpec
from dspex.worker.built import Program
from dspex.worker.signatures import dspy_signature, input_types

_TEXT = dspy.Signature("text -> x").input_fields["text"]


class _Acts(dspy.ReAct):  # type: ignore[misc]
    """``ReAct`` that shows its trajectory cheaply, and whose tools may give lists of anything.

    Stock DSPy makes a class with a field for each entry before each request, 40 ms on the worker's loop after
    100 turns, of which its adapters only look at the names. And it fails on a list of what is no text.
    """

    def _format_trajectory(self, trajectory: dict[str, Any]) -> Any:
        adapter = dspy.settings.adapter or dspy.ChatAdapter()
        if not type(adapter).__module__.startswith("dspy."):
            return super()._format_trajectory(trajectory)
        fields = SimpleNamespace(input_fields=dict.fromkeys(trajectory, _TEXT))
        shown = trajectory
        if not isinstance(adapter, dspy.TwoStepAdapter):  # which shows Python's own form
            shown = {name: _shown(value) for name, value in trajectory.items()}
        return adapter.format_user_message_content(fields, shown)


def _shown(value: Any) -> Any:
    if isinstance(value, list) and not all(isinstance(item, str) for item in value):
        return json.dumps(serialize_for_json(value), ensure_ascii=False)
    return value


def react(spec: ProgramSpec, tools: list[dspy.Tool]) -> Program:
    """A ``ReAct``, whose outputs begin with its reasoning."""
    options = dict(spec.options)
    own = {"max_iters": options.pop("max_iters")} if "max_iters" in options else {}
    module = _Acts(dspy_signature(spec.declared), tools, **own)
    for predict in (module.react, module.extract.predict):
        predict.config.update(options)
    outputs = tuple(module.extract.predict.signature.output_fields)
    return Program(
        spec.declared,
        input_types(spec.declared),
        module,
        outputs,
        tell=lambda prediction: {"trajectory": prediction.trajectory},
        answers=(module.extract.predict,),
    )


class _Submits(dspy.ReActV2):  # type: ignore[misc]
    """``ReActV2`` whose own failure to get an answer is told apart from the failures of a user's code."""

    async def aforward(self, **inputs: Any) -> Any:
        """As in ``dspy.ReActV2``."""
        try:
            return await super().aforward(**inputs)
        except ValueError as error:
            if not str(error).startswith("ReActV2 failed"):
                raise
            raise ParseError(
                f"the model did not give its outputs: {error}; a larger max_iters or a stronger model may "
                "help"
            ) from error


def react_v2(spec: ProgramSpec, tools: list[dspy.Tool]) -> Program:
    """A ``ReActV2``, which calls tools by the provider's own way where it has one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is experimental is said in the catalogue
        module = _Submits(dspy_signature(spec.declared), tools, **spec.options)
    outputs = tuple(module.signature.output_fields)
    return Program(spec.declared, input_types(spec.declared), module, outputs, tell=_told)


def _told(prediction: Any) -> dict[str, Any]:
    messages = [_plain(message) for message in prediction.history.messages]
    return {"trajectory": {"messages": messages, "termination_reason": prediction.termination_reason}}


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.model_dump(mode="json") if isinstance(value, dspy.ToolCalls) else _text(value)
        for name, value in message.items()
    }


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, dspy.Reasoning) else value
