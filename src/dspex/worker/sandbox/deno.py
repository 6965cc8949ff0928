"""All of Python: Pyodide, which is CPython in WebAssembly, in a process of Deno's that may do nothing."""

from __future__ import annotations

from typing import Any

from dspy.primitives.python_interpreter import PythonInterpreter

from dspex.pyodide.outcome import Outcome
from dspex.pyodide.session import Session
from dspex.types import SandboxRules
from dspex.worker.sandbox.interpreter import Interpreter


class Deno(Interpreter):
    """A sandbox of Pyodide under Deno."""

    #: DSPy's own words: it is the same Pyodide.
    execution_instructions = PythonInterpreter.execution_instructions

    def __init__(self, rules: SandboxRules, deadline: float | None) -> None:
        super().__init__(rules, deadline)
        self._session = Session(rules, deadline)
        self._known: dict[str, Any] = {}

    def start(self) -> None:
        """Start it before the first block, which takes half a second.

        Raises:
            SandboxMissing: It is not installed.
        """
        self._session.start()

    def run(self, code: str, variables: dict[str, Any]) -> Outcome:
        """See ``Interpreter``."""
        functions = self.functions()
        new = [
            {"name": name, "parameters": parameters}
            for name, parameters in functions.items()
            if self._known.get(name) != parameters
        ]
        try:
            outcome = self._session.run(code, variables=variables, functions=new, call=self.call)
        except BaseException:  # it has been ended
            self._known = {}
            raise
        self._known = functions
        return outcome

    def shutdown(self) -> None:
        """See ``Interpreter``."""
        self._session.close()
        self._known = {}
