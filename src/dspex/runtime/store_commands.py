"""The original's commands that need no worker: programs and sessions, answered from the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from dspex.errors import InvalidInput
from dspex.program.importpath import is_path
from dspex.runtime import drafts, stored
from dspex.runtime.caller import Caller
from dspex.runtime.drafts import Draft
from dspex.runtime.question import Question
from dspex.runtime.steps import OnLoop, Steps
from dspex.runtime.stored import info_of
from dspex.session.names import check

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from dspex.runtime.core import Core
    from dspex.session.programs import Current, Stored

_DRAFT = ("signature", "modules", "instructions", "demos", "lm", "tools", "options", "sandbox")


class StoreCommands:
    """Commands about stored programs and sessions.

    Args:
        core: The runtime's core.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._all: dict[str, tuple[tuple[str, ...], Callable[..., Steps[Any]]]] = {
            "create_program": (("session_id", "name", *_DRAFT), self._create),
            "execute_program": (("program_id", "session_id", "inputs", "prompt", "lm"), self._execute),
            "list_programs": (("session_id",), self._list),
            "get_program_info": (("program_id", "session_id"), self._info),
            "delete_program": (("program_id", "session_id"), self._delete),
            "cleanup_session": (("session_id",), self._cleanup),
        }

    def __contains__(self, command: object) -> bool:
        return isinstance(command, str) and command in self._all

    def steps(
        self, command: str, args: Mapping[str, Any] | None, deadline: float | None, caller: Caller
    ) -> Steps[Any]:
        """What a command does; it gives data that JSON has.

        Args:
            command: Its name.
            args: Its arguments by name.
            deadline: Monotonic second at which its work has to stop; None never.
            caller: Whose it is.

        Raises:
            InvalidInput: An argument is unknown, or missing.
            DspexError: Whatever it ends with.
        """
        known, function = self._all[command]
        given = args or {}
        if not isinstance(given, Mapping):
            raise InvalidInput(f"args are a dict of names to values, not {type(given).__name__}")
        if unknown := [str(name) for name in given if name not in known]:
            raise InvalidInput(
                f"{command} takes {', '.join(known)}, not {', '.join(unknown)}",
                details={"unknown": unknown, "known": list(known)},
            )
        for name in ("program_id", "session_id"):
            if given.get(name) is not None:
                check(f"a {name.partition('_')[0]}'s id", given[name])
        return function(given, deadline, caller)

    def _create(self, args: Mapping[str, Any], _: float | None, caller: Caller) -> Steps[dict[str, Any]]:
        said = {name: args[name] for name in _DRAFT if args.get(name) is not None}
        _no_functions(said)
        made = yield from drafts.make(self._core, Draft(**said))
        session_id = yield from stored.home(self._core, caller.tenant, args.get("session_id"))
        current = yield from stored.store(self._core, caller.tenant, session_id, made, args.get("name"))
        return {
            "program_id": current.id,
            "session_id": current.session_id,
            "name": current.name,
            "version": current.version,
        }

    def _execute(
        self, args: Mapping[str, Any], deadline: float | None, caller: Caller
    ) -> Steps[dict[str, Any]]:
        question = Question(
            args.get("prompt"),
            inputs=args.get("inputs"),
            lm=args.get("lm"),
            deadline=deadline,
            caller=caller,
        )
        program_id, session_id = _needed(args, "program_id"), args.get("session_id")
        ran, _ = yield from stored.execute(self._core, caller.tenant, program_id, session_id, question, None)
        return ran.outputs

    def _list(self, args: Mapping[str, Any], _: float | None, caller: Caller) -> Steps[list[Any]]:
        session_id, now = _needed(args, "session_id"), time.time()

        def work(connection: Connection) -> list[Stored]:
            from dspex.session import programs

            return programs.listed(connection, caller.tenant, session_id, now)

        found: list[Stored] = yield OnLoop(lambda: self._core.sessions.read(work))
        return [msgspec.to_builtins(info_of(one, session_id)) for one in found]

    def _info(self, args: Mapping[str, Any], _: float | None, caller: Caller) -> Steps[dict[str, Any]]:
        program_id, now = _needed(args, "program_id"), time.time()

        def work(connection: Connection) -> tuple[Current, Stored]:
            from dspex.session import programs

            current = programs.current(connection, caller.tenant, program_id, args.get("session_id"), now)
            return current, programs.stored(connection, caller.tenant, program_id, now)

        found: tuple[Current, Stored] = yield OnLoop(lambda: self._core.sessions.read(work))
        told: dict[str, Any] = msgspec.to_builtins(info_of(found[1], found[0].session_id))
        return told

    def _delete(self, args: Mapping[str, Any], _: float | None, caller: Caller) -> Steps[dict[str, Any]]:
        program_id, now = _needed(args, "program_id"), time.time()

        def work(connection: Connection) -> None:
            from dspex.session import programs

            programs.current(connection, caller.tenant, program_id, args.get("session_id"), now)
            programs.remove(connection, caller.tenant, program_id, now)

        yield OnLoop(lambda: self._core.sessions.write(work))
        self._core.programs.forget(program_id)
        return {"deleted": program_id}

    def _cleanup(self, args: Mapping[str, Any], _: float | None, caller: Caller) -> Steps[dict[str, Any]]:
        session_id = _needed(args, "session_id")

        def work(connection: Connection) -> None:
            from dspex.session import sessions

            sessions.end(connection, caller.tenant, session_id)

        yield OnLoop(lambda: self._core.sessions.write(work))
        self._core.sessions.deleted(caller.tenant, session_id)
        return {"deleted": session_id}


def _needed(args: Mapping[str, Any], name: str) -> str:
    value = args.get(name)
    if value is None:
        raise InvalidInput(f"{name} is missing", details={"missing": [name]})
    found: str = value
    return found


def _no_functions(said: Mapping[str, Any]) -> None:
    """A command has data only: tools by import path, and no state from a file of this machine."""
    stages = said.get("modules") or ()
    inner = () if isinstance(stages, str) else (one for one in stages if isinstance(one, Mapping))
    for one in (said, *inner):
        tools = one.get("tools")
        if tools is not None and not (isinstance(tools, list | tuple) and all(map(is_path, tools))):
            raise InvalidInput(
                "tools of a command are a list of import paths such as 'package.module:function'",
                details={"option": "tools"},
            )
        if isinstance(one.get("state"), str):
            raise InvalidInput("the state of a command is what module.dump_state() gives, and no path")
