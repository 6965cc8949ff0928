"""What is the same in every sandbox: DSPy's protocol, how functions are called, how failures are told."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from dspy.primitives.code_interpreter import (
    SIMPLE_TYPES,
    CodeExecutionError,
    CodeInterpreterError,
    FinalOutput,
)
from pydantic_core import PydanticSerializationError, to_jsonable_python

from dspex.errors import Cancelled, PythonTimeout
from dspex.pyodide.inside import plain
from dspex.pyodide.outcome import Ended, Outcome
from dspex.types import SandboxRules
from dspex.worker.dspy_compat import ToolFailed

#: The function that ends a block by its final output.
SUBMIT = "SUBMIT"
_SUBMIT_ONE = [{"name": "output"}]


class CallEnds(BaseException):
    """Raised through a sandbox, whose code must not catch it: the whole call ends by this error."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class Interpreter(ABC):
    """One conversation of a module with a sandbox, for one call; used from one thread.

    Args:
        rules: What the code may take.
        deadline: Monotonic second at which the call ends; None never.

    Attributes:
        tools: Functions that the code may call, by name; the module adds to them.
        output_fields: Names and types of the outputs that ``SUBMIT`` takes; None is one, of any kind.
    """

    #: What a model is told of this sandbox.
    execution_instructions = ""

    def __init__(self, rules: SandboxRules, deadline: float | None) -> None:
        self.rules = rules
        self.deadline = deadline
        self.tools: dict[str, Callable[..., Any]] = {}
        self.output_fields: list[dict[str, Any]] | None = None

    def start(self) -> None:  # noqa: B027 (most have nothing to do)
        """Nothing: what is needed starts with the first block."""

    def execute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        """Run a block of code; names that it defines are there for the next.

        Args:
            code: The block.
            variables: Values by the names that the block has for them.

        Returns:
            ``FinalOutput`` when it submitted; else the value of its last expression, and where that has none
            what it printed.

        Raises:
            CodeExecutionError: The code raised, or was ended because it took too much.
            SyntaxError: It is no Python.
            CodeInterpreterError: A variable cannot be sent into a sandbox.
            SandboxMissing: The sandbox is not installed.
            PythonTimeout: The call's deadline passed.
        """
        given = {name: jsonable(value) for name, value in (variables or {}).items()}
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise PythonTimeout("the deadline passed while generated code was run")
        try:
            outcome = self.run(code, given)
        except Ended as error:
            raise CodeExecutionError(f"{error.kind}: {[str(error)]}") from None
        except CallEnds as ending:
            raise ending.error from None
        if outcome.final is not None:
            return FinalOutput(outcome.final)
        if (failed := outcome.error) is not None:
            if failed.type == "SyntaxError":
                raise SyntaxError(f"Invalid Python syntax. message: {failed.message}")
            raise CodeExecutionError(f"{failed.type}: {failed.args or failed.message}")
        return outcome.value

    @abstractmethod
    def run(self, code: str, variables: dict[str, Any]) -> Outcome:
        """``execute``, of JSON-ready variables, with what came of it as data.

        Raises:
            Ended: The sandbox had to be ended; the next block starts another.
            CallEnds: A function has ended the whole call.
        """

    @abstractmethod
    def shutdown(self) -> None:
        """End the sandbox; safe to repeat."""

    def call(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Call one of the functions that the code may call.

        Returns:
            What the code is told: JSON-ready data as ``value``, or as ``error`` what it is to raise.

        Raises:
            CallEnds: The call ends by what the function raised.
        """
        function = self.tools.get(name)
        if function is None:
            return {"error": f"CodeInterpreterError: Unknown tool: {name}"}
        try:
            result = function(**arguments)
            if inspect.iscoroutine(result):
                result = asyncio.run(result)
        except (PythonTimeout, Cancelled) as error:
            raise CallEnds(error) from None
        except ToolFailed as failed:
            return {"error": _last_lines(failed.text)}
        except Exception as error:  # noqa: BLE001 (the code is told, as it would be of its own functions)
            return {"error": f"{type(error).__name__}: {_text(error)}"}
        except BaseException as error:  # noqa: BLE001 (it ends the call as it is)
            raise CallEnds(error) from None
        return {"value": _returned(result)}

    def functions(self) -> dict[str, list[dict[str, Any]]]:
        """The parameters of each function that the code may call, ``SUBMIT`` included."""
        found = {name: _parameters(function) for name, function in self.tools.items()}
        return {**found, SUBMIT: self.output_fields or _SUBMIT_ONE}


def jsonable(value: Any) -> Any:
    """A value as JSON-ready data, for a sandbox.

    Raises:
        CodeInterpreterError: It is none, and cannot become it.
    """
    if value is None or type(value) in {str, bool, int, float}:
        return value
    if type(value) in {list, tuple}:
        return [jsonable(item) for item in value]
    if type(value) is dict:
        return {key if isinstance(key, str) else str(key): jsonable(item) for key, item in value.items()}
    try:
        return plain(to_jsonable_python(plain(value) if isinstance(value, set | frozenset) else value))
    except PydanticSerializationError:
        raise CodeInterpreterError(f"Unsupported value type: {type(value).__name__}") from None


def _returned(result: Any) -> Any:
    # As DSPy's own sandbox has it, where nothing is an empty text.
    if result is None:
        return ""
    try:
        return jsonable(result)
    except Exception:  # noqa: BLE001 (it may be of any class, whose own code is asked)
        return _text(result)


def _text(value: object) -> str:
    """What a value says of itself, if its own code lets it."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001 (the code is told what it is, then)
        return f"<{type(value).__name__}>"


def _last_lines(trace: str) -> str:
    """What an exception said, of what DSPy shows a model of it: without the frames, which are indented."""
    lines = trace.splitlines()
    frames = [number for number, line in enumerate(lines) if line.startswith("  ")]
    return "\n".join(lines[frames[-1] + 1 :] if frames else lines)


def _parameters(function: Callable[..., Any]) -> list[dict[str, Any]]:
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            continue  # arguments travel by name
        said: dict[str, Any] = {"name": name}
        if parameter.kind is parameter.VAR_KEYWORD:
            said["kind"] = "**"
        elif parameter.kind is parameter.KEYWORD_ONLY:
            said["kind"] = "keyword"
        if parameter.annotation in SIMPLE_TYPES:
            said["type"] = parameter.annotation.__name__
        if parameter.default is not parameter.empty:
            try:
                json.dumps(parameter.default)
                said["default"] = parameter.default
            except (TypeError, ValueError):
                said["optional"] = True
        found.append(said)
    return found
