"""Where spans of a call begin and end: at modules, at sandboxes, and at a program's own tools."""

from __future__ import annotations

import functools
from typing import Any

from dspy.utils.callback import BaseCallback

from dspex.types import ToolSpec
from dspex.worker import genai
from dspex.worker.built import Runnable
from dspex.worker.spans import Span, Spans, error_type


class ModuleSpans(BaseCallback):  # type: ignore[misc]
    """A span for each module that runs, and for each tool that a program of the user's own has made.

    Args:
        spans: The call's.
        program: What is run.
    """

    def __init__(self, spans: Spans, program: Runnable) -> None:
        self._spans = spans
        self._module = program.module
        self._names: dict[int, str] | None = None
        self._going: dict[str, Span] = {}

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """See DSPy."""
        content = self._spans.content
        name, said = genai.of_module(instance, self._predictor(instance), inputs, content=content)
        self._going[call_id] = self._spans.begin(name, said)

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """See DSPy."""
        span = self._going.pop(call_id, None)
        if span is not None:
            if self._spans.content and exception is None:
                span.set(**{"dspex.outputs": genai.outputs(outputs)})
            span.end(None if exception is None else error_type(exception))

    def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """See DSPy. The tools that dspex makes have their spans where they run."""
        if type(instance).__module__.startswith("dspex."):
            return
        content = self._spans.content
        spec = ToolSpec(str(instance.name), str(instance.desc or ""), {}, path="")
        name, said = genai.of_tool(spec, inputs.get("kwargs", {}), content=content)
        self._going[call_id] = self._spans.begin(name, said)

    def on_tool_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """See DSPy."""
        span = self._going.pop(call_id, None)
        if span is not None:
            if self._spans.content and exception is None:
                span.set(**{"gen_ai.tool.call.result": genai.encoded(outputs)})
            span.end(None if exception is None else error_type(exception))

    def _predictor(self, instance: Any) -> str | None:
        """By what name the program has a predictor; None of the program itself."""
        if self._names is None:
            named: list[Any] = getattr(self._module, "named_parameters", list)()
            self._names = {id(one): str(name) for name, one in named if one is not self._module}
        return self._names.get(id(instance))


def watch(interpreter: Any, kind: str, spans: Spans) -> None:
    """Have each block of code that a sandbox runs be a span."""
    stock = interpreter.execute

    @functools.wraps(stock)
    def execute(code: str, *args: Any, **named: Any) -> Any:
        said: dict[str, Any] = {"dspex.sandbox.asked": kind, "dspex.sandbox.code_size": len(code)}
        if spans.content:
            said["dspex.sandbox.code"] = code
        with spans.span("sandbox", said) as span:
            try:
                outcome = stock(code, *args, **named)
            finally:
                used = getattr(interpreter, "chosen", interpreter)
                span.set(**{"dspex.sandbox.kind": type(used).__name__.removesuffix("Interpreter").lower()})
            if spans.content:
                span.set(**{"dspex.sandbox.output": genai.encoded(getattr(outcome, "output", outcome))})
            return outcome

    interpreter.execute = execute
