"""From questions to answers through one pool: the same steps for callers with an event loop and without."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any

from dspex.errors import DspexError
from dspex.lm.profile import LM
from dspex.pool.work import Done, Work
from dspex.program import forms
from dspex.program.described import Description
from dspex.program.given import Given
from dspex.program.importpath import is_path
from dspex.program.signature import Signature
from dspex.runtime import describe as describing
from dspex.runtime import observed
from dspex.runtime.asking import Way, send
from dspex.runtime.call import Answer, Prepared, prepare, read
from dspex.runtime.core import Core
from dspex.runtime.describe import Asked
from dspex.runtime.encoded import Programs
from dspex.runtime.mcp import has_servers
from dspex.runtime.modules import describe, describe_signature, known, known_signature
from dspex.runtime.portal import Portal
from dspex.runtime.question import DEFAULT_SIGNATURE, Question
from dspex.runtime.specify import Named, specify
from dspex.runtime.states import States
from dspex.runtime.traced import refused, traced
from dspex.wire.payloads import take

_NOTHING = b"\xc0"
# Characters of text that are encoded on the loop: that takes less than a hop to a thread and back.
_SMALL = 64 * 1024


@dataclass(frozen=True, slots=True)
class Found:
    """A question of which all is known that only workers and servers can tell.

    Attributes:
        question: The question, its state read and its servers' tools in the place of servers.
        users: The program, when it is one of the user's own.
        declared: The signature, when it is given by import path.
    """

    question: Question
    users: Description | None
    declared: Signature | None


@dataclass(frozen=True, slots=True)
class Identity:
    """What a question asks, but for its inputs.

    Attributes:
        program: Fingerprint of its program.
        module: Full name of its module.
        lm: Its LM; None of a program of the user's own that is given none.
        shared: Whether it may run beside other calls.
    """

    program: bytes
    module: str
    lm: LM | None
    shared: bool


class Route:
    """The way of questions through one pool.

    Args:
        core: The runtime's core.
        portal: The way onto its loop.
        programs: The runtime's encoded programs.
        states: The runtime's saved states.
        pool: The pool's name.
    """

    def __init__(self, core: Core, portal: Portal, programs: Programs, states: States, pool: str) -> None:
        self._core = core
        self._portal = portal
        self._programs = programs
        self._states = states
        self._name = pool
        self._pool_for = partial(core.pool, pool)

    # Whole calls

    def ask(self, question: Question, twin: str) -> Answer:
        """The answer, for a thread without the runtime's loop.

        Args:
            question: The question.
            twin: What has to be awaited instead on that loop.

        Raises:
            DspexError: Whatever the call ended with.
            RuntimeError: Called on the runtime's own loop.
        """
        prepared = self._prepare(self.find(question, twin))
        return read(prepared, self._portal.run(lambda: self._send(prepared), twin))

    async def aask(self, question: Question) -> Answer:
        """``ask`` for event loops."""
        prepared = self._prepare(await self.afind(question), on_loop=True)
        return read(prepared, await self._portal.wait(lambda: self._send(prepared)))

    async def aprepare(self, question: Question) -> Prepared:
        """A question checked and encoded, on the runtime's loop; for ``aanswer``."""
        found = await self.afind(question)
        if is_small(found.question.inputs):
            return self._prepare(found, on_loop=True)
        return await asyncio.to_thread(self._prepare, found)

    async def aanswer(self, prepared: Prepared) -> Answer:
        """The answer, on the runtime's loop."""
        return read(prepared, await self._send(prepared))

    # Its steps

    def find(self, question: Question, twin: str) -> Found:
        """Find out what has to be known of a question; see ``ask``."""
        question = self._states.loaded(question)
        found = self._known(question)
        return found if found is not None else self._portal.run(lambda: self._find(question), twin)

    async def afind(self, question: Question) -> Found:
        """``find`` for event loops."""
        if self._states.waits(question):
            question = await asyncio.to_thread(self._states.loaded, question)
        found = self._known(question)
        return found if found is not None else await self._portal.wait(lambda: self._find(question))

    def _known(self, question: Question) -> Found | None:
        """What was found, if nobody has to be asked for it."""
        users = known(question, self._core.modules)
        declared = known_signature(question, self._core.signatures)
        waits = (
            (users is None and is_path(question.module))
            or (declared is None and forms.is_path(question.signature))
            or has_servers(question.tools)
        )
        return None if waits else Found(question, users, declared)

    async def _find(self, question: Question) -> Found:
        users = known(question, self._core.modules)
        if users is None and is_path(question.module):
            users = await describe(question, self._core.modules, self._pool_for)
        declared = known_signature(question, self._core.signatures)
        if declared is None and forms.is_path(question.signature):
            declared = await describe_signature(question, self._core.signatures, self._pool_for)
        if has_servers(question.tools):
            question = await self._core.servers.into(question)
        return Found(question, users, declared)

    def _prepare(self, found: Found, *, on_loop: bool = False) -> Prepared:
        settings = self._core.settings
        try:
            return prepare(
                found.question,
                self._programs,
                settings.max_payload,
                users=found.users,
                declared=found.declared,
                allow_modules=settings.allow_modules,
                catalogue=self._core.catalogue,
                on_loop=on_loop,
            )
        except DspexError as error:
            refused(self._core.tracing, self._name, found.question, error)
            observed.refused(self._core.bus, self._name, found.question, error)
            raise

    async def _send(self, prepared: Prepared) -> Done:
        return await observed.observed(self._core.bus, self._name, prepared, self._send_observed)

    async def _send_observed(self, prepared: Prepared) -> Done:
        return await traced(self._core.tracing, self._name, prepared, self._send_traced)

    async def _send_traced(self, prepared: Prepared) -> Done:
        self._core.pool(self._name)  # a wrong name is told before a model is started
        core = self._core
        way = Way(
            self._name,
            self._pool_for,
            core.models,
            core.functions,
            core.caches,
            core.budgets,
            core.bus,
        )
        return await send(prepared, way)

    # Descriptions

    def describe(self, what: Any, deadline: float | None, twin: str) -> tuple[Asked, dict[str, Any]]:
        """What was asked for, and what a worker tells of it; nothing of a module that the table has.

        Raises:
            Refused: It is nothing that can be described.
            RuntimeError: Called on the runtime's own loop.
        """
        asked = self._asked(what)
        if asked.entry is not None:
            return asked, {}
        return asked, self._portal.run(lambda: describing.send(asked, self._pool_for, deadline), twin)

    async def adescribe(self, what: Any, deadline: float | None) -> tuple[Asked, dict[str, Any]]:
        """``describe`` for event loops."""
        asked = self._asked(what)
        if asked.entry is not None:
            return asked, {}
        return asked, await self._portal.wait(lambda: describing.send(asked, self._pool_for, deadline))

    def _asked(self, what: Any) -> Asked:
        return describing.read(what, self._programs, self._core.settings.allow_modules)

    # Trials

    def build(self, question: Question, twin: str, *, dump: bool = False) -> Any:
        """Have a worker build the program that a question names, before any call runs it.

        A worker that other calls share keeps it; the others build it at their first call.

        Args:
            question: The question.
            twin: As of ``ask``.
            dump: Whether to have what DSPy would save of it.

        Returns:
            The names of its predictors, or what DSPy would save: data that JSON has.

        Raises:
            DspexError: Whatever is wrong with it, with ``request_id`` set.
            RuntimeError: Called on the runtime's own loop.
        """
        found = self.find(question, twin)
        return self._portal.run(lambda: self._build(found, dump), twin)

    async def abuild(self, question: Question, *, dump: bool = False) -> Any:
        """``build`` for event loops."""
        found = await self.afind(question)
        return await self._portal.wait(lambda: self._build(found, dump))

    async def identity(self, question: Question) -> Identity:
        """What a question asks, but for its inputs; everything that can be wrong with that is told.

        Raises:
            Refused: Something in it is wrong; no LM was asked.
        """
        found = await self.afind(question)
        try:
            named = self._named(found)
            lm = self._core.models.find(question.lm) if found.users is None or question.lm else None
        except DspexError as error:
            raise error.for_request(question.request_id)  # noqa: B904 (it is the same error)
        _, fingerprint = self._programs.encoded(named.spec)
        return Identity(fingerprint, named.spec.module, lm, named.shared)

    def capacity(self, *, shared: bool) -> int:
        """How many calls the pool, or its companion for calls that run alone, can run at once."""
        return self._pool_for(isolated=not shared).capacity

    def _named(self, found: Found) -> Named:
        given = None
        if found.users is None:
            wanted = DEFAULT_SIGNATURE if found.question.signature is None else found.question.signature
            given = (forms.read(wanted) if found.declared is None else Given(found.declared)).signature
        allowed = self._core.settings.allow_modules
        return specify(found.question, given, found.users, allowed, self._core.catalogue)

    async def _build(self, found: Found, dump: bool) -> Any:
        question = found.question
        try:
            named = self._named(found)
            encoded, fingerprint = self._programs.encoded(named.spec)
            work = Work(
                "dump" if dump else "build",
                _NOTHING,
                question.deadline,
                encoded,
                fingerprint,
                repeatable=True,
                request_id=question.request_id,
            )
            pool = self._pool_for(isolated=not named.shared, tenant=question.caller.tenant)
            done = await pool.execute(work)
            built = take(done.value)
        except DspexError as error:
            raise error.for_request(question.request_id)  # noqa: B904 (it is the same error)
        return built


def is_small(inputs: Any) -> bool:
    """Whether inputs are encoded in no time: a few short texts and numbers."""
    if not isinstance(inputs, dict):
        return inputs is None
    size = 0
    for value in inputs.values():
        if isinstance(value, str):
            size += len(value)
        elif not isinstance(value, int | float | None):
            return False
    return size < _SMALL
