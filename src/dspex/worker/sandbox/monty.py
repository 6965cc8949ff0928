"""A fast sandbox: Monty, an interpreter of much of Python that starts in milliseconds.

It has no files, no network and no processes to give away: what code cannot say, it cannot do. The code runs
in a child process of Monty's, which is in the worker's group and is killed with it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import json
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from dspex.errors import PythonTimeout, SandboxMissing
from dspex.pyodide.inside import Printed, plain
from dspex.pyodide.outcome import Ended, Failure, Outcome
from dspex.types import SandboxRules
from dspex.worker.sandbox.interpreter import SUBMIT, CallEnds, Interpreter

_INSTALL = "pip install 'dspex[sandbox]'"
_UNPARSED = "The monty syntax parser does not yet support"
_TOO_LONG = "feed time limit exceeded"
_RECURSION = 1000
# Each call of a function is one; what bounds them is the call's deadline.
_SUSPENSIONS = 1_000_000
# Monty ends a block that takes too long by itself, and its pool a process that does not.
_GRACE = 1.0


def installed() -> bool:
    """Whether the extra is installed."""
    return importlib.util.find_spec("pydantic_monty") is not None


def missing() -> SandboxMissing:
    """The error of a call that needs it."""
    return SandboxMissing(
        f"the sandbox 'monty' is not installed: run  {_INSTALL}", details={"extra": "sandbox"}
    )


class _Submitted(BaseException):
    """Ends a block by its final output."""


class Monty(Interpreter):
    """A sandbox of Monty's.

    Attributes:
        unparsed: Whether the last block was refused before any of it ran, for what Monty does not have.
    """

    execution_instructions = (
        "Python runs in a small, restricted interpreter. State persists across executions. Much of the "
        "language is there; yield, del, class inheritance, property and globals() are not. Of the standard "
        "library only json, math, re, datetime, collections, itertools, functools, random, decimal, "
        "dataclasses, typing and a few more can be imported. There are no files, no network, no "
        "subprocesses, and no other packages."
    )

    def __init__(self, rules: SandboxRules, deadline: float | None) -> None:
        super().__init__(rules, deadline)
        self.unparsed = False
        self._open: contextlib.ExitStack | None = None
        self._session: Any = None
        self._final: dict[str, Any] | None = None
        self._ending: CallEnds | None = None
        # Tells the exception by which a block has ended from one of the block's own.
        self._token = secrets.token_hex(8)

    def run(self, code: str, variables: dict[str, Any]) -> Outcome:
        """See ``Interpreter``."""
        import pydantic_monty

        self._final = self._ending = None
        self.unparsed = False
        printed = Printed(self.rules.output)
        session = self._started()
        functions = self._functions()
        try:
            with self._watched(session.worker_pid):
                value = session.feed_run(
                    code,
                    inputs=variables,
                    external_lookup=functions,
                    print_callback=lambda _, text: printed.write(text),
                )
        except pydantic_monty.MontyCrashedError:
            self.shutdown()
            if self.deadline is not None and time.monotonic() >= self.deadline:
                raise PythonTimeout("the deadline passed while generated code was run") from None
            raise Ended("MemoryError", "the code took more than it may, or broke the sandbox") from None
        except pydantic_monty.MontyError as error:
            return self._failed(error)
        if self._ending is not None:
            raise self._ending
        return self._bounded(Outcome(printed.text() if value is None else plain(value)))

    def lacks(self, statement: str) -> bool:
        """Whether an import statement asks for something that Monty does not have."""
        import pydantic_monty

        try:
            self._started().feed_run(statement, print_callback=lambda *_: None)
        except pydantic_monty.MontyError as error:
            return isinstance(getattr(error, "exception", lambda: None)(), ImportError)
        return False

    def shutdown(self) -> None:
        """See ``Interpreter``."""
        if self._open is not None:
            opened, self._open, self._session = self._open, None, None
            opened.close()

    def _started(self) -> Any:
        if self._session is None:
            if not installed():
                raise missing()
            import pydantic_monty

            with contextlib.ExitStack() as stack:
                pool = pydantic_monty.Monty(
                    min_processes=1, max_processes=1, feed_duration_limit_grace=_GRACE
                )
                stack.enter_context(pool)
                session = pool.checkout(
                    limits={
                        "max_feed_duration_secs": self.rules.seconds,
                        "max_memory": self.rules.memory,
                        "max_recursion_depth": _RECURSION,
                        "max_suspensions": _SUSPENSIONS,
                    },
                    # There is nothing in a sandbox to wait for, and waiting is no computing.
                    os_policy={"sleep": "zero"},
                    assert_message_annotations=False,
                )
                self._session = stack.enter_context(session)
                self._open = stack.pop_all()
        return self._session

    @contextlib.contextmanager
    def _watched(self, pid: int | None) -> Iterator[None]:
        """Kill Monty's process when the call's deadline passes before a block's own time does."""
        left = None if self.deadline is None else self.deadline - time.monotonic()
        if left is None or pid is None:
            yield
            return
        timer = threading.Timer(max(left, 0.0), _kill, (pid,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()

    def _functions(self) -> dict[str, Callable[..., Any]]:
        return {
            name: self._external(name, _signature(parameters))
            for name, parameters in self.functions().items()
        }

    def _external(self, name: str, signature: inspect.Signature) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            if self._ending is not None:
                raise self._ending
            arguments = _bound(name, signature, args, kwargs)
            if name == SUBMIT:
                self._final = arguments
                raise _Submitted(self._token)
            try:
                said = self.call(name, arguments)
            except CallEnds as ending:
                self._ending = ending
                raise
            if "error" in said:
                raise RuntimeError(said["error"])  # as DSPy's own sandbox tells it
            return said["value"]

        return called

    def _failed(self, error: Any) -> Outcome:
        if self._ending is not None:
            raise self._ending
        cause = error.exception()
        text = str(cause)
        if self._final is not None and text == self._token:
            return self._bounded(Outcome(final=self._final))
        if isinstance(cause, TimeoutError) and text.startswith(_TOO_LONG):
            # What it was doing is left half done.
            self.shutdown()
            raise Ended("TimeoutError", f"the code ran for longer than {self.rules.seconds:g} s")
        self.unparsed = isinstance(cause, NotImplementedError) and text.startswith(_UNPARSED)
        display = error.display().replace("<python-input-", "<block-")
        return self._bounded(
            Outcome(error=Failure(type(cause).__name__, plain(list(cause.args)), display[:4000]))
        )

    def _bounded(self, outcome: Outcome) -> Outcome:
        if outcome.error is not None:
            return outcome
        given = outcome.final if outcome.final is not None else outcome.value
        size, most = len(json.dumps(given)), 12 * self.rules.output + 4096
        if size <= most:
            return outcome
        text = f"what the code gave has {size} characters, over the limit of {most}; give less"
        return Outcome(error=Failure("ValueError", [text], text))


def _signature(parameters: list[dict[str, Any]]) -> inspect.Signature:
    kinds = {
        "**": inspect.Parameter.VAR_KEYWORD,
        "keyword": inspect.Parameter.KEYWORD_ONLY,
        "": inspect.Parameter.POSITIONAL_OR_KEYWORD,
    }
    made = []
    for parameter in parameters:
        has_default = "default" in parameter or "optional" in parameter
        default = parameter.get("default") if has_default else inspect.Parameter.empty
        kind = kinds[parameter.get("kind", "")]
        made.append(inspect.Parameter(parameter["name"], kind, default=default))
    return inspect.Signature(made)


def _bound(
    name: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    try:
        given = signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        raise TypeError(f"{name}() {error}") from None
    rest = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), None)
    more = given.pop(rest, {}) if rest is not None else {}
    return {key: plain(value) for key, value in {**given, **more}.items()}


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
        os.kill(pid, signal.SIGKILL)
