"""Which sandbox a call has."""

from __future__ import annotations

import ast
import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from dspy.primitives.local_interpreter import LocalInterpreter

from dspex.errors import NotAllowed, SandboxMissing
from dspex.pyodide import start
from dspex.pyodide.outcome import Outcome
from dspex.types import SandboxRules
from dspex.worker import engine
from dspex.worker.sandbox import monty
from dspex.worker.sandbox.deno import Deno
from dspex.worker.sandbox.interpreter import Interpreter
from dspex.worker.sandbox.monty import Monty
from dspex.worker.traced import watch

_rules = SandboxRules()


def allow(rules: SandboxRules) -> None:
    """Have these rules hold in this process."""
    global _rules  # noqa: PLW0603 (a worker is told once, when it is forked)
    _rules = rules


def preload() -> None:
    """Import what a sandbox is reached by, before workers are forked. No sandbox is started."""
    if monty.installed():
        with contextlib.suppress(ImportError):  # the first call tells
            importlib.import_module("pydantic_monty")


class Auto(Interpreter):
    """Monty, unless the first block needs more of Python than it has; then Deno, if that is there.

    Later blocks stay where the first one was: what it defined is there and nowhere else.
    """

    def __init__(self, rules: SandboxRules, deadline: float | None) -> None:
        super().__init__(rules, deadline)
        self._monty: Monty | None = Monty(rules, deadline) if monty.installed() else None
        self._chosen: Interpreter | None = None

    @property
    def chosen(self) -> Interpreter | None:
        """The sandbox that the first block was run in."""
        return self._chosen

    def start(self) -> None:
        """Nothing: which one it is shows with the first block.

        Raises:
            SandboxMissing: None is installed.
        """
        if self._monty is None and start.installed() is None:
            raise SandboxMissing(
                "no sandbox is installed for generated code: run  pip install 'dspex[sandbox]'  (fast, much "
                "of Python) or  pip install 'dspex[deno]'  (all of Python)",
                details={"extra": "sandbox", "extras": ["sandbox", "deno"]},
            )
        if self._monty is None:
            start.needed()

    def run(self, code: str, variables: dict[str, Any]) -> Outcome:
        """See ``Interpreter``."""
        if self._chosen is not None:
            return self._chosen.run(code, variables)
        self.start()
        if self._monty is None:
            return self._choose(Deno(self.rules, self.deadline)).run(code, variables)
        quick = self._choose(self._monty)
        if not start.ready():
            return quick.run(code, variables)
        if not any(self._monty.lacks(statement) for statement in _imports(code)):
            outcome = self._monty.run(code, variables)
            if not self._monty.unparsed:
                return outcome
        quick.shutdown()
        return self._choose(Deno(self.rules, self.deadline)).run(code, variables)

    def _choose(self, one: Interpreter) -> Interpreter:
        one.tools = self.tools  # the same dict: a module may add to it later
        one.output_fields = self.output_fields
        self._chosen = one
        return one

    def shutdown(self) -> None:
        """See ``Interpreter``."""
        if self._chosen is not None:
            self._chosen.shutdown()


def _imports(code: str) -> Iterator[str]:
    """The imports of the standard library in a block, each as a statement; none if it is no Python."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias for alias in node.names if alias.name.partition(".")[0] in sys.stdlib_module_names]
            if names:
                yield ast.unparse(ast.Import(names))
        elif (
            isinstance(node, ast.ImportFrom)
            and not node.level
            and (node.module or "").partition(".")[0] in sys.stdlib_module_names
        ):
            yield ast.unparse(node)


_KINDS: dict[str, Callable[[SandboxRules, float | None], Any]] = {
    "auto": Auto,
    "monty": Monty,
    "deno": Deno,
    "local": lambda *_: LocalInterpreter(),
}


class Factory:
    """Makes the interpreters of one program, as DSPy's modules ask for them.

    Args:
        kind: ``"auto"``, ``"monty"``, ``"deno"``, or ``"local"``.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._made: Any = None

    def check(self) -> None:
        """Refuse what cannot be had, before a model is asked.

        Raises:
            NotAllowed: It is ``"local"``, and the operator did not allow that.
            SandboxMissing: It is not installed.
        """
        if self._kind == "local" and not _rules.local:
            raise NotAllowed(
                "sandbox='local' runs generated code with all that this user may do, and the operator has "
                "not allowed it: Settings(allow_local_interpreter=True)",
                details={"option": "sandbox"},
            )
        if self._kind == "monty" and not monty.installed():
            raise monty.missing()
        if self._kind == "deno":
            start.needed()
        if self._kind == "auto":
            Auto(_rules, None).start()

    def __call__(self) -> Any:
        """A new interpreter, within the deadline of the call that asks for it."""
        self.check()
        scope = engine.current.get(None) or engine.alone
        self._made = _KINDS[self._kind](_rules, scope.deadline if scope is not None else None)
        if scope is not None and scope.spans is not None:
            watch(self._made, self._kind, scope.spans)
        return self._made

    @property
    def execution_instructions(self) -> str:
        """What a model is told of the sandbox; of ``"auto"`` of the one that was chosen."""
        made = self._made.chosen if isinstance(self._made, Auto) else self._made
        if made is None:
            made = {"monty": Monty, "local": LocalInterpreter}.get(self._kind, Deno)
        return str(getattr(made, "execution_instructions", ""))
