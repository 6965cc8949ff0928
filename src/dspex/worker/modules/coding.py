"""``ProgramOfThought``, ``CodeAct`` and ``RLM``: a model that writes Python, which a sandbox runs."""

from __future__ import annotations

import functools
import inspect
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dspy
from dspy.primitives.code_interpreter import CodeInterpreterError

from dspex.errors import SandboxError
from dspex.program.spec import ProgramSpec
from dspex.types import ToolSpec
from dspex.worker.built import Program
from dspex.worker.sandbox.choose import Factory
from dspex.worker.signatures import dspy_signature, input_types

_OUT_OF_TRIES = "Max hops reached"
_TOLD = "dspex_trajectory"
_KEPT = 20
# They write down the code and its errors, which may hold what the inputs held; the answer tells both.
for _name in ("program_of_thought", "code_act", "rlm"):
    logging.getLogger(f"dspy.predict.{_name}").setLevel(logging.CRITICAL)


@contextmanager
def _in_sandbox(tried: list[dict[str, Any]]) -> Iterator[None]:
    """Gives the failures of a sandbox their own error, with the code that was tried."""
    try:
        yield
    except CodeInterpreterError as error:
        raise SandboxError(f"the sandbox failed: {error}", details={"attempts": tried[-_KEPT:]}) from error
    except RuntimeError as error:
        if not str(error).startswith(_OUT_OF_TRIES):
            raise
        last = tried[-1]["error"] if tried else str(error)
        raise SandboxError(
            f"no code of the model's ran well in {len(tried)} tries, the last: {last}; allow more "
            "(max_iters), say more in the signature, take a stronger model, or sandbox='deno', which has all "
            "of Python",
            details={"attempts": tried[-_KEPT:]},
        ) from error


class _Writes:
    """What the modules of this file have in common: each block of code is recorded with what came of it."""

    def _parse_code(self, code_data: Any) -> tuple[str, str | None]:
        code, error = super()._parse_code(code_data)  # type: ignore[misc]
        if error:
            self._tried.append({"code": code, "output": None, "error": error})
        return code, error

    def _execute_code(self, code: str, interpreter: Any) -> tuple[str | None, str | None]:
        output, error = super()._execute_code(code, interpreter)  # type: ignore[misc]
        self._tried.append({"code": code, "output": output, "error": error})
        return output, error

    def forward(self, *args: Any, **inputs: Any) -> Any:
        """As in DSPy."""
        self._tried: list[dict[str, Any]] = []  # a worker runs one such program at a time
        with _in_sandbox(self._tried):
            prediction = super().forward(*args, **inputs)  # type: ignore[misc]
        object.__setattr__(prediction, _TOLD, self._tried)
        return prediction


class _Thinks(_Writes, dspy.ProgramOfThought):  # type: ignore[misc]
    pass


class _Acts(_Writes, dspy.CodeAct):  # type: ignore[misc]
    """``CodeAct`` whose tools are called back out of the sandbox, where DSPy sends their source into it."""

    tools: dict[str, dspy.Tool]

    @contextmanager
    def _interpreter_context(self, interpreter: Any) -> Iterator[Any]:
        with super()._interpreter_context(interpreter) as opened:
            opened.tools.update({name: tool.func for name, tool in self._called.items()})
            yield opened

    def forward(self, *args: Any, **inputs: Any) -> Any:
        """As in DSPy; the tools are there already, so none is sent."""
        self._called = dict(self.tools)
        self.tools = {}
        try:
            return super().forward(*args, **inputs)
        finally:
            self.tools = self._called


def _told(prediction: Any) -> dict[str, Any]:
    return {"trajectory": getattr(prediction, _TOLD, [])}


def _as_in_dspy(prediction: Any) -> dict[str, Any]:
    return {"trajectory": prediction.trajectory}


def program_of_thought(spec: ProgramSpec) -> Program:
    """A ``ProgramOfThought``, whose outputs begin with its reasoning."""
    with _quiet():
        module = _Thinks(dspy_signature(spec.declared), interpreter_factory=_factory(spec), **spec.options)
    outputs = tuple(module.generate_output.predict.signature.output_fields)
    return Program(
        spec.declared,
        input_types(spec.declared),
        module,
        outputs,
        blocking=True,
        tell=_told,
        answers=(module.generate_output.predict,),
    )


def code_act(spec: ProgramSpec, tools: list[dspy.Tool]) -> Program:
    """A ``CodeAct``, whose outputs begin with its reasoning."""
    with _quiet():
        module = _Acts(
            dspy_signature(spec.declared),
            _in_code(spec, tools),
            interpreter_factory=_factory(spec),
            **spec.options,
        )
    outputs = tuple(module.extractor.predict.signature.output_fields)
    return Program(
        spec.declared,
        input_types(spec.declared),
        module,
        outputs,
        blocking=True,
        tell=_as_in_dspy,
        answers=(module.extractor.predict,),
    )


class _Recurses(dspy.RLM):  # type: ignore[misc]
    def forward(self, **inputs: Any) -> Any:
        """As in DSPy."""
        with _in_sandbox([]):
            return super().forward(**inputs)


def rlm(spec: ProgramSpec, tools: list[dspy.Tool]) -> Program:
    """An ``RLM``. It has an asynchronous form, which blocks its loop for as long as a block of code runs."""
    with _quiet():
        module = _Recurses(
            dspy_signature(spec.declared),
            tools=_in_code(spec, tools),
            interpreter_factory=_factory(spec),
            **spec.options,
        )
    outputs = ("final_reasoning", *module.signature.output_fields)
    return Program(
        spec.declared,
        input_types(spec.declared),
        module,
        outputs,
        blocking=True,
        tell=_as_in_dspy,
    )


def _factory(spec: ProgramSpec) -> Factory:
    factory = Factory(spec.sandbox)
    factory.check()
    return factory


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it will go, or is experimental, is said in the catalogue
        yield


def _in_code(spec: ProgramSpec, tools: list[dspy.Tool]) -> list[dspy.Tool]:
    """The tools with functions that code can call as it would the caller's own."""
    by_name = {tool.name: tool for tool in spec.tools}
    for tool in tools:
        tool.func = _spelled_out(by_name[tool.name], tool.func)
    return tools


def _spelled_out(spec: ToolSpec, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(**arguments: Any) -> Any:
        return function(**arguments)

    if spec.path is not None:
        functools.update_wrapper(call, function)
    call.__name__ = call.__qualname__ = spec.name
    call.__doc__ = spec.description
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    needed = {name: schema for name, schema in spec.parameters.items() if "default" not in schema}
    optional = {name: schema for name, schema in spec.parameters.items() if "default" in schema}
    # What has a default comes last, as it has to in Python; keyword-only parameters may have been mixed.
    parameters = [inspect.Parameter(name, kind) for name in needed]
    parameters += [
        inspect.Parameter(name, kind, default=schema["default"]) for name, schema in optional.items()
    ]
    if spec.takes_any:
        parameters = [p for p in parameters if p.name != "kwargs"]
        parameters.append(inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD))
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return call
