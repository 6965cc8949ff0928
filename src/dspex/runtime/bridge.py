"""The original's calls: a command by name to a pool, its bare value back."""

from __future__ import annotations

import secrets
from typing import Any

from dspex.errors import DspexError, InvalidInput, InvalidOption
from dspex.pool.work import Work
from dspex.runtime.call import Programs, Question, ask, deadline_in
from dspex.runtime.core import Core
from dspex.runtime.portal import Portal
from dspex.wire.values import decode, encode

_MODULE_COMMANDS = frozenset({"execute_module", "run"})
_MODULE_ARGUMENTS = ("module", "signature", "inputs", "prompt", "options", "lm")


class Bridge:
    """One pool, as ``runtime.pool(name)`` gives it.

    Args:
        core: The runtime's core.
        portal: The way onto its loop.
        programs: The runtime's encoded programs.
        name: The pool's name.
    """

    def __init__(self, core: Core, portal: Portal, programs: Programs, name: str) -> None:
        self._core = core
        self._portal = portal
        self._programs = programs
        self._name = name

    def execute(
        self, command: str, args: dict[str, Any] | None = None, *, timeout: float | None = 30.0
    ) -> Any:
        """Run a command in a worker and return its value.

        Args:
            command: ``ping``, ``echo``, ``describe``, ``execute_module`` (also ``run``), ``get_stats``,
                ``shutdown``, or one that a module of yours registered with ``@dspex.command``.
            args: Its arguments by name. ``execute_module`` takes ``module``, ``signature``, ``inputs`` or
                ``prompt``, ``options`` and ``lm``, and returns the outputs.
            timeout: Seconds after which the work is stopped; None never stops it.

        Raises:
            DspexError: Whatever the call ended with.
            RuntimeError: Called on the runtime's own event loop; await ``aexecute`` there.
        """
        return self._portal.run(lambda: self._execute(command, args, timeout), "aexecute")

    async def aexecute(
        self, command: str, args: dict[str, Any] | None = None, *, timeout: float | None = 30.0
    ) -> Any:
        """``execute`` for event loops."""
        return await self._portal.wait(lambda: self._execute(command, args, timeout))

    async def _execute(self, command: str, args: dict[str, Any] | None, timeout: float | None) -> Any:
        deadline = deadline_in(timeout)
        if not isinstance(command, str):
            raise InvalidOption(f"a command is named by text, not {type(command).__name__}")
        if command in _MODULE_COMMANDS:
            return await self._execute_module(args or {}, deadline)
        encoded = encode(args, where="args")
        pool = self._core.pool(self._name)
        try:
            done = await pool.execute(Work(command, encoded.data, deadline))
        except DspexError as error:
            raise error.for_request(secrets.token_hex(8))  # noqa: B904 (it is the same error)
        return decode(done.value, encoded.types)

    async def _execute_module(self, args: dict[str, Any], deadline: float | None) -> dict[str, Any]:
        if unknown := [name for name in args if name not in _MODULE_ARGUMENTS]:
            raise InvalidInput(
                f"execute_module takes {', '.join(_MODULE_ARGUMENTS)}, not {', '.join(map(str, unknown))}",
                details={"unknown": unknown, "known": list(_MODULE_ARGUMENTS)},
            )
        question = Question(
            prompt=args.get("prompt"),
            module=args.get("module", "dspy.Predict"),
            signature=args.get("signature"),
            inputs=args.get("inputs"),
            options=args.get("options") or {},
            lm=args.get("lm"),
            deadline=deadline,
        )
        answer = await ask(question, self._core.pool(self._name), self._core.models, self._programs)
        return answer.outputs
