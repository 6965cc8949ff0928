"""Sandboxes for tests: both kinds, by themselves and behind a runtime."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from dspy.primitives.code_interpreter import CodeExecutionError

from dspex.errors import SandboxMissing
from dspex.pyodide import start
from dspex.types import SandboxRules
from dspex.worker.sandbox.deno import Deno
from dspex.worker.sandbox.interpreter import Interpreter
from dspex.worker.sandbox.monty import Monty

#: For code that ends by itself: a busy machine is given its time.
RULES = SandboxRules(seconds=30.0, memory=200 * 1024 * 1024, output=10_000)
#: For code that does not.
SHORT = SandboxRules(seconds=1.0, memory=200 * 1024 * 1024, output=10_000)
KINDS: dict[str, Any] = {"monty": Monty, "deno": Deno}
_PACKAGES = {"monty": "pydantic_monty", "deno": "deno"}


def need(kind: str) -> None:
    """Skip where a sandbox's extra is not installed; Pyodide is fetched if it has to be (seconds, once)."""
    if importlib.util.find_spec(_PACKAGES[kind]) is None:
        pytest.skip(f"the extra of the sandbox {kind!r} is not installed")
    if kind == "deno":
        try:
            start.prepare()
        except SandboxMissing as error:
            if "archive" not in error.details:  # it is not the registry that is out of reach
                raise
            pytest.skip(error.message)


@contextmanager
def opened(kind: str, rules: SandboxRules = RULES, deadline: float | None = None) -> Iterator[Interpreter]:
    """A sandbox."""
    need(kind)
    sandbox: Interpreter = KINDS[kind](rules, deadline)
    try:
        yield sandbox
    finally:
        sandbox.shutdown()


def refused(sandbox: Interpreter, code: str) -> str:
    """What the model is told of a block that does not run well."""
    with pytest.raises((CodeExecutionError, SyntaxError)) as caught:
        sandbox.execute(code)
    return str(caught.value)
