"""The commands that a worker answers: its own, and those of the operator's modules."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import dspy
import msgspec

from dspex.errors import InvalidInput, InvalidOption, NotAllowed
from dspex.program import forms
from dspex.program.described import refuse_signature
from dspex.program.importpath import is_allowed, is_path
from dspex.program.spec import ProgramSpec, make
from dspex.types import commands as registered
from dspex.wire.blobs import Blob
from dspex.wire.messages import NOTHING, Call
from dspex.wire.payloads import take
from dspex.wire.values import encode_result
from dspex.worker import demos, described, engine, faults, installed, paths, users
from dspex.worker.built import Runnable
from dspex.worker.media import FOR_PROGRAMS
from dspex.worker.run import Nobody, run_awaited, run_blocking
from dspex.worker.threads import Place

if TYPE_CHECKING:
    from dspex.worker.main import Worker

Args = msgspec.Raw | Blob


class Commands:
    """The registry of one worker."""

    def __init__(self, worker: Worker, allow_modules: list[str], place: Place) -> None:
        self._worker = worker
        self._allow_modules = allow_modules
        self._place = place
        self._imported = False
        self._own: dict[str, Callable[[Call, Args], Awaitable[list[bytes]]]] = {
            "describe": self._describe,
            "get_stats": self._get_stats,
            "execute_module": self._execute_module,
            "run": self._execute_module,
        }

    async def run(self, call: Call, args: Args) -> list[bytes]:
        """Run the call's command and return its encoded result, in pieces; its arguments are let go of."""
        if call.command in {"build", "dump"} and call.fingerprint:  # of the runtime's own: no caller names it
            return await self._build(call)
        own = self._own.get(call.command)
        if own is not None:
            return await own(call, args)
        return await self._run_users(call, args)

    async def _execute_module(self, call: Call, args: Args) -> list[bytes]:
        programs = self._worker.programs
        program = programs.find(call.fingerprint)
        if program is None:
            begun = time.monotonic()
            program = await programs.get(call.fingerprint, call.program, self._place, self._allow_modules)
            engine.scope_of_call().built = time.monotonic() - begun
        encoded: list[bytes]
        if program.blocking:
            encoded = await self._place.blocking(lambda: self._run_blocking(program, call.lm, args))
        else:
            encoded = await self._place.awaited(lambda: self._run_awaited(program, call.lm, args))
        return encoded

    async def _build(self, call: Call) -> list[bytes]:
        """Build a program, and give the names of its predictors, or what DSPy would save of it."""
        programs = self._worker.programs
        program = await programs.get(call.fingerprint, call.program, self._place, self._allow_modules)
        if call.command == "dump":
            return encode_result(demos.dumped(program))
        return encode_result([name for name, _ in program.module.named_parameters()])

    async def _run_awaited(self, program: Runnable, number: int, args: Args) -> list[bytes]:
        with self._lm(number) as (lm, adapter):
            return await run_awaited(program, take(args, FOR_PROGRAMS), lm, adapter)

    def _run_blocking(self, program: Runnable, number: int, args: Args) -> list[bytes]:
        with self._lm(number) as (lm, adapter):
            return run_blocking(program, take(args, FOR_PROGRAMS), lm, adapter)

    def _lm(self, number: int) -> contextlib.AbstractContextManager[tuple[dspy.BaseLM, Any]]:
        """The LM of a call that may have none: a program of the user's own need not ask one."""
        return self._worker.lms.using(number) if number else contextlib.nullcontext((Nobody(), None))

    async def _get_stats(self, _call: Call, _args: Args) -> list[bytes]:
        worker = self._worker
        return encode_result(
            {
                "pid": os.getpid(),
                "in_flight": len(worker.running) - 1,
                "done": worker.done,
                "programs": len(worker.programs),
                "python": sys.version.split()[0],
                "dspy": dspy.__version__,
            }
        )

    async def _describe(self, call: Call, args: Args) -> list[bytes]:
        if call.program != NOTHING:
            # What an adapter asks: its signature may have been a class.
            spec = msgspec.msgpack.decode(call.program, type=ProgramSpec)
            return encode_result(described.signature_of(spec))
        asked = take(args) or {}
        if unknown := sorted(set(asked) - {"signature", "module", "path"}):
            raise InvalidInput(f"describe takes signature and module, not {', '.join(unknown)}")
        if "path" in asked:
            answer = await self._place.blocking(lambda: described.by_path(asked["path"], self._allow_modules))
            return encode_result(answer)
        if is_path(asked.get("module")):
            refuse_signature(asked["module"], asked.get("signature"))
            answer = await self._place.blocking(lambda: users.describe(asked["module"], self._allow_modules))
            return encode_result(answer)
        if "signature" not in asked:
            await self._load_users()
            return encode_result(
                {
                    "commands": self._known(),
                    "modules": list(installed.installed().modules),
                    "dspy": dspy.__version__,
                }
            )
        given = asked["signature"]
        if forms.is_path(given):
            declared = await self._place.blocking(lambda: paths.declared(given, self._allow_modules))
        else:
            declared = forms.read(given).signature
        answer = described.signature_of(make(asked.get("module", "dspy.Predict"), declared))
        if declared.path is not None:
            answer["declared"] = msgspec.to_builtins(declared)
        return encode_result(answer)

    # Commands of the operator's modules

    async def _run_users(self, call: Call, args: Args) -> list[bytes]:
        function = registered.get(call.command)
        if function is None:
            await self._load_users()
            function = registered.get(call.command)
        if function is None or not is_allowed(function.__module__, self._allow_modules):
            known = ", ".join(self._known())
            raise NotAllowed(
                f"no command {call.command!r}; a module that Settings(allow_modules=[...]) names has to "
                f"register it with @dspex.command. Known: {known}",
                details={"command": call.command},
            )
        arguments = take(args) or {}
        if not isinstance(arguments, dict):
            raise InvalidInput("a command's arguments have to be a dict, by parameter name")
        try:
            inspect.signature(function).bind(**arguments)
        except TypeError as error:
            raise InvalidOption(f"{call.command}: {error}", details={"command": call.command}) from None
        if inspect.iscoroutinefunction(function):
            return encode_result(await self._place.awaited(lambda: function(**arguments)))
        # Encoded in the thread, too: a large result would hold up the calls on the loop.
        encoded: list[bytes] = await self._place.blocking(lambda: encode_result(function(**arguments)))
        return encoded

    def _known(self) -> list[str]:
        return sorted({*self._own, "ping", "echo", "shutdown", *registered})

    async def _load_users(self) -> None:
        if not self._imported:
            await self._place.blocking(self._import_allowed)

    def _import_allowed(self) -> None:
        for module in self._allow_modules:
            try:
                importlib.import_module(module)
            except Exception as error:
                raise faults.python_error(
                    f"importing {module!r}, which allow_modules names, failed: ", error
                ) from error
        self._imported = True
