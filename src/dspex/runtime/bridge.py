"""The original's calls: a command by name to a pool, its bare value back."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dspex.errors import DspexError, InvalidInput, InvalidOption
from dspex.lm.profile import LM
from dspex.pool.work import Done, Work
from dspex.program.classes import named
from dspex.program.importpath import is_path
from dspex.runtime.call import read_value
from dspex.runtime.caller import Caller, Priority, caller
from dspex.runtime.core import Core
from dspex.runtime.portal import Portal
from dspex.runtime.question import Question, deadline_in
from dspex.runtime.route import Found, Route
from dspex.runtime.stages import Ran, single
from dspex.runtime.steps import OnLoop, Steps, arun, run
from dspex.runtime.store_commands import StoreCommands
from dspex.runtime.stream_command import aevents, events
from dspex.runtime.streams import LiveCall
from dspex.runtime.turns import InSession, in_session
from dspex.session.names import check
from dspex.wire.payloads import Payload, astore, discard, encode_arguments

_MODULE_COMMANDS = frozenset({"execute_module", "run"})
_MODULE_ARGUMENTS = ("module", "signature", "inputs", "prompt", "options", "lm", "tools", "sandbox")


@dataclass(frozen=True, slots=True)
class _Command:
    """A command that was checked and encoded."""

    name: str
    args: Payload | list[bytes]
    types: Mapping[str, type]
    deadline: float | None
    caller: Caller
    request_id: str


class Bridge:
    """One pool, as ``runtime.pool(name)`` gives it.

    Args:
        core: The runtime's core.
        portal: The way onto its loop.
        route: The way of questions through the pool.
        name: The pool's name.
        runtime: What has to live as long as this does; it is closed when nobody has it any more.
    """

    def __init__(self, core: Core, portal: Portal, route: Route, name: str, *, runtime: object) -> None:
        self._runtime = runtime
        self._core = core
        self._portal = portal
        self._route = route
        self._name = name
        self._max_payload = core.settings.max_payload
        self._store = StoreCommands(core)

    def execute(
        self,
        command: str,
        args: dict[str, Any] | None = None,
        *,
        timeout: float | None = 30.0,
        tenant: str | None = None,
        priority: Priority = "interactive",
    ) -> Any:
        """Run a command in a worker and return its value.

        Args:
            command: ``ping``, ``echo``, ``describe``, ``execute_module`` (also ``run``), ``get_stats``,
                ``shutdown``, ``configure_lm``, ``create_program``, ``execute_program``, ``list_programs``,
                ``get_program_info``, ``delete_program``, ``cleanup_session``, ``stream``, or one that a
                module of yours registered with ``@dspex.command``.
            args: Its arguments by name. ``execute_module`` takes ``module``, ``signature``, ``inputs`` or
                ``prompt``, ``options``, ``lm`` and ``tools`` (import paths), and returns the outputs.
                ``stream`` takes the same, and returns an iterator of dicts (``aexecute``: an async one): what
                happens while it runs by its ``type``, and last ``{"type": "final", "outputs": ...}``.
                ``configure_lm`` takes what ``LM`` takes, and the ``name`` of a profile; without one it is the
                runtime's default.
            timeout: Seconds after which the work is stopped; None never stops it.
            tenant: Whose call it is: tenants take turns when calls have to wait.
            priority: ``"batch"`` lets interactive calls go first.

        Raises:
            DspexError: Whatever the call ended with.
            RuntimeError: Called on the runtime's own event loop; await ``aexecute`` there.
        """
        if command == "configure_lm":
            name, lm = _profile(args or {})
            return self._portal.run(lambda: self._configure(name, lm), "aexecute")
        whose = caller(tenant, priority)
        if command == "stream":
            self._portal.refuse_loop("aexecute")
            return events(self._listened(args, timeout, whose))
        if command in self._store:
            taken = self._store.steps(command, args, deadline_in(timeout), whose)
            return run(taken, self._portal, self._route, "aexecute")
        question = self._question(command, args, timeout, whose)
        if question is None:
            prepared = self._prepare(command, args, timeout, whose)
            return self._read(prepared, self._portal.run(lambda: self._send(prepared), "aexecute"))
        if command == "describe":
            return _told(self._route.find(question, "aexecute"))
        return self._route.ask(question, "aexecute").outputs

    async def aexecute(
        self,
        command: str,
        args: dict[str, Any] | None = None,
        *,
        timeout: float | None = 30.0,
        tenant: str | None = None,
        priority: Priority = "interactive",
    ) -> Any:
        """``execute`` for event loops."""
        if command == "configure_lm":
            name, lm = _profile(args or {})
            return await self._portal.wait(lambda: self._configure(name, lm))
        whose = caller(tenant, priority)
        if command == "stream":
            return aevents(self._listened(args, timeout, whose))
        if command in self._store:
            taken = self._store.steps(command, args, deadline_in(timeout), whose)
            return await arun(taken, self._portal, self._route)
        question = self._question(command, args, timeout, whose)
        if question is None:
            prepared = self._prepare(command, args, timeout, whose, on_loop=True)
            return self._read(prepared, await self._portal.wait(lambda: self._send(prepared)))
        if command == "describe":
            return _told(await self._route.afind(question))
        return (await self._route.aask(question)).outputs

    def _listened(
        self, args: dict[str, Any] | None, timeout: float | None, whose: Caller, session_id: str | None = None
    ) -> LiveCall:
        question = _question(args or {}, deadline_in(timeout), whose)
        taken = single(question, None) if session_id is None else self._turn_of(session_id, question)
        return LiveCall(taken, self._portal, self._route)

    # In a session

    def execute_in_session(
        self,
        session_id: str,
        command: str,
        args: dict[str, Any] | None = None,
        *,
        timeout: float | None = 30.0,
        tenant: str | None = None,
        priority: Priority = "interactive",
    ) -> Any:
        """Run a command in a session, which is made if there is none, and lives on by it.

        Commands about programs are about those of this session, ``execute_module`` is a turn of it, and
        others run as they do without one: any worker serves any session.

        Args:
            session_id: The session.
            command: As of ``execute``.
            args: As of ``execute``.
            timeout: As of ``execute``.
            tenant: Whose session it is.
            priority: As of ``execute``.

        Raises:
            SessionQuota: It would be one session too many.
            DspexError: Whatever the call ended with.
            RuntimeError: Called on the runtime's own event loop; await ``aexecute_in_session`` there.
        """
        whose = caller(tenant, priority)
        if command == "stream":
            self._portal.refuse_loop("aexecute_in_session")
            return events(self._listened(args, timeout, whose, session_id))
        taken = self._in_session(session_id, command, args, timeout, whose)
        if taken is not None:
            return run(taken, self._portal, self._route, "aexecute_in_session")
        check("a session's id", session_id)
        self._portal.run(lambda: self._core.sessions.ensure(whose.tenant, session_id), "aexecute_in_session")
        return self.execute(command, args, timeout=timeout, tenant=tenant, priority=priority)

    async def aexecute_in_session(
        self,
        session_id: str,
        command: str,
        args: dict[str, Any] | None = None,
        *,
        timeout: float | None = 30.0,
        tenant: str | None = None,
        priority: Priority = "interactive",
    ) -> Any:
        """``execute_in_session`` for event loops."""
        whose = caller(tenant, priority)
        if command == "stream":
            return aevents(self._listened(args, timeout, whose, session_id))
        taken = self._in_session(session_id, command, args, timeout, whose)
        if taken is not None:
            return await arun(taken, self._portal, self._route)
        check("a session's id", session_id)
        await self._portal.wait(lambda: self._core.sessions.ensure(whose.tenant, session_id))
        return await self.aexecute(command, args, timeout=timeout, tenant=tenant, priority=priority)

    def _in_session(
        self,
        session_id: str,
        command: str,
        args: dict[str, Any] | None,
        timeout: float | None,
        whose: Caller,
    ) -> Steps[Any] | None:
        """What a command does that knows sessions; None for others."""
        deadline = deadline_in(timeout)
        if command in self._store:
            said = {**(args or {}), "session_id": session_id}
            return self._store.steps(command, said, deadline, whose)
        if command not in _MODULE_COMMANDS:
            return None
        check("a session's id", session_id)
        question = _question(args or {}, deadline, whose)
        return self._turn(session_id, question)

    def _turn(self, session_id: str, question: Question) -> Steps[Any]:
        ran = yield from self._turn_of(session_id, question)
        return ran.outputs

    def _turn_of(self, session_id: str, question: Question) -> Steps[Ran]:
        check("a session's id", session_id)
        tenant = question.caller.tenant
        yield OnLoop(lambda: self._core.sessions.ensure(tenant, session_id))
        ran: Ran = yield from in_session(self._core, InSession(tenant, session_id), question, single)
        return ran

    @staticmethod
    def _question(
        command: str, args: dict[str, Any] | None, timeout: float | None, whose: Caller
    ) -> Question | None:
        """What is asked of a module; None for other commands, and where ``describe`` names no import path."""
        if not _is_text(command):
            raise InvalidOption(f"a command is named by text, not {command!a}")
        if command in _MODULE_COMMANDS:
            return _question(args or {}, deadline_in(timeout), whose)
        module = args.get("module") if command == "describe" and isinstance(args, dict) else None
        module = named(module) if isinstance(module, type) else module
        if isinstance(args, dict) and isinstance(module, str) and is_path(module):
            if unknown := sorted(map(str, args.keys() - {"module", "signature"})):
                raise InvalidInput(f"describe takes signature and module, not {', '.join(unknown)}")
            return Question(module=module, signature=args.get("signature"), deadline=deadline_in(timeout))
        return None

    def _prepare(
        self,
        command: str,
        args: dict[str, Any] | None,
        timeout: float | None,
        whose: Caller,
        *,
        on_loop: bool = False,
    ) -> _Command:
        deadline = deadline_in(timeout)
        stored, types = encode_arguments(args, self._max_payload, where="args", on_loop=on_loop)
        return _Command(command, stored, types, deadline, whose, secrets.token_hex(8))

    async def _send(self, prepared: _Command) -> Done:
        pool = self._core.pool(self._name)
        args = prepared.args
        if isinstance(args, list):
            args = await astore(args)
        try:
            whose = prepared.caller
            work = Work(
                prepared.name,
                args,
                prepared.deadline,
                tenant=whose.tenant,
                batch=whose.batch,
                request_id=prepared.request_id,
            )
            return await pool.execute(work)
        except DspexError as error:
            raise error.for_request(prepared.request_id)  # noqa: B904 (it is the same error)
        finally:
            discard(args)

    async def _configure(self, name: str | None, lm: LM) -> dict[str, Any]:
        # Calls carry their LM, so this reaches every worker, those that start later too.
        self._core.models.configure(name, lm)
        return {"name": name, "model": lm.model}

    @staticmethod
    def _read(prepared: _Command, done: Done) -> Any:
        return read_value(done.value, prepared.types, prepared.request_id)


def _told(found: Found) -> Any:
    """What ``describe`` says of a program of the user's own."""
    assert found.users is not None
    return copy.deepcopy(found.users.answer)


def _profile(args: dict[str, Any]) -> tuple[str | None, LM]:
    """The arguments of ``configure_lm``: a profile's name, or None for the default, and the LM.

    Raises:
        InvalidInput: They name no model, or the name is none.
        InvalidOption: They make no LM.
        UnknownProvider: The model's provider is not known.
    """
    options = dict(args)
    name, model = options.pop("name", None), options.pop("model", None)
    if name is not None and (not _is_text(name) or not name or "/" in name):
        raise InvalidInput(f"configure_lm takes a profile's name without a slash, not {name!a}")
    if model is None:
        raise InvalidInput("configure_lm needs model, such as 'openai/gpt-5-mini'")
    return name, LM(model, **options)


def _is_text(value: object) -> bool:
    """Whether it can be sent as text: half of a surrogate pair cannot."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _question(args: dict[str, Any], deadline: float | None, whose: Caller) -> Question:
    """The arguments of ``execute_module`` as a question.

    Raises:
        InvalidInput: One of them is unknown.
    """
    if unknown := [name for name in args if name not in _MODULE_ARGUMENTS]:
        raise InvalidInput(
            f"execute_module takes {', '.join(_MODULE_ARGUMENTS)}, not {', '.join(map(str, unknown))}",
            details={"unknown": unknown, "known": list(_MODULE_ARGUMENTS)},
        )
    return Question(
        prompt=args.get("prompt"),
        module=named(args.get("module", "dspy.Predict")),
        signature=args.get("signature"),
        inputs=args.get("inputs"),
        options=args.get("options") or {},
        tools=_paths(args.get("tools")),
        sandbox=args.get("sandbox", "auto"),
        lm=args.get("lm"),
        deadline=deadline,
        caller=whose,
    )


def _paths(tools: Any) -> list[str] | None:
    """Tools by import path: a command has no functions.

    Raises:
        InvalidInput: One of them is something else.
    """
    if tools is None:
        return None
    if not isinstance(tools, list | tuple) or not all(is_path(tool) for tool in tools):
        raise InvalidInput(
            "tools of a command are a list of import paths such as 'package.module:function'; functions are "
            "taken by adapter.generate"
        )
    return list(tools)
