"""Programs that are stored, as an adapter makes and runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from dspex.adapter.base import UNSET, Base, GivenSignature, Prompt, Sandbox, Unset
from dspex.adapter.response import Response
from dspex.adapter.session.base import Base as SessionBase
from dspex.lm.profile import LM
from dspex.program.document import Made
from dspex.program.export import imported
from dspex.program.saved import Given
from dspex.runtime import drafts, stored
from dspex.runtime.caller import Priority, caller
from dspex.runtime.drafts import Draft
from dspex.runtime.question import Question
from dspex.runtime.stages import Stages
from dspex.runtime.steps import Steps
from dspex.session.names import check
from dspex.types import Budget

if TYPE_CHECKING:
    from dspex.adapter.adapter import DSPyAdapter
    from dspex.adapter.program import Program
    from dspex.adapter.session.session import Session


class Programs(Base):
    """The part of an adapter that has to do with stored programs."""

    def create_program(
        self,
        signature: GivenSignature | None = None,
        *,
        modules: Any = ("dspy.Predict",),
        session: Session | str | None = None,
        name: str | None = None,
        instructions: str | None = None,
        demos: Sequence[Mapping[str, Any]] | None = None,
        lm: LM | str | None = None,
        tools: Sequence[Any] | None = None,
        options: Mapping[str, Any] | None = None,
        state: Given | None = None,
        sandbox: Sandbox = "auto",
    ) -> Program:
        """Store a program, to be called again and again. All of it is checked now; no LM is asked.

        Args:
            signature: What goes in and comes out, in any form that ``generate`` takes.
            modules: Its stages in order: names of DSPy modules, import paths of your own, ``dspex.Stage``s or
                dicts of what these take. A later one gets the inputs and, as inputs ``previous_<field>``,
                what the one before it gave.
            session: Where it belongs, a session or the id of one; None is a session of its own, which lives
                for as long as the program's object does, and an hour after its last use.
            name: A name by which the session finds it.
            instructions: The task in words, over those of the signature.
            demos: Examples, each a dict of inputs and outputs by name.
            lm: The LM of its calls that name none; stored without a key, as of ``session``.
            tools: What it may call. Import paths are stored; functions are kept by this process, and have to
                be given again in another one (``session.program(id, tools=[...])``).
            options: Options of its module by name.
            state: The JSON file that ``module.save("x.json")`` wrote, or what ``module.dump_state()`` gives.
            sandbox: Where code that the model wrote is run.

        Raises:
            Refused: Something in it is wrong.
            SessionQuota: It would need one session too many.
            StoreError: The store cannot be used.
            RuntimeError: Called on the runtime's own event loop; await ``acreate_program`` there.
        """
        draft = Draft(signature, modules, instructions, demos, lm, tools, options, state, sandbox)
        return self._take(self._create(draft, session, name), "acreate_program")

    async def acreate_program(
        self,
        signature: GivenSignature | None = None,
        *,
        modules: Any = ("dspy.Predict",),
        session: Session | str | None = None,
        name: str | None = None,
        instructions: str | None = None,
        demos: Sequence[Mapping[str, Any]] | None = None,
        lm: LM | str | None = None,
        tools: Sequence[Any] | None = None,
        options: Mapping[str, Any] | None = None,
        state: Given | None = None,
        sandbox: Sandbox = "auto",
    ) -> Program:
        """``create_program`` for event loops."""
        draft = Draft(signature, modules, instructions, demos, lm, tools, options, state, sandbox)
        return await self._atake(self._create(draft, session, name))

    def import_program(
        self, document: Mapping[str, Any], *, session: Session | str | None = None, name: str | None = None
    ) -> Program:
        """Store a program that ``program.export()`` gave, here or on another machine.

        Args:
            document: The document.
            session: As of ``create_program``.
            name: Its name here; None is the one that it had.

        Raises:
            InvalidOption: It is no such document; the message names the place.
            Refused: Something in it is not allowed here.
            RuntimeError: Called on the runtime's own event loop; await ``aimport_program`` there.
        """
        return self._take(self._import(document, session, name), "aimport_program")

    async def aimport_program(
        self, document: Mapping[str, Any], *, session: Session | str | None = None, name: str | None = None
    ) -> Program:
        """``import_program`` for event loops."""
        return await self._atake(self._import(document, session, name))

    def execute_program(
        self,
        program_id: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        prompt: Prompt | None = None,
        session_id: str | None = None,
        timeout: float | Unset | None = UNSET,
        lm: LM | str | None = None,
        debug: bool = False,
        tenant: str | None = None,
        priority: Priority = "interactive",
        budget: Budget | None = None,
    ) -> Response:
        """Run the current version of a stored program, and wait for its outputs.

        Args:
            program_id: Its id.
            inputs: Inputs by field name.
            prompt: Fills the one input that ``inputs`` does not give.
            session_id: Its session, to be sure; a program remembers its session.
            timeout: Seconds after which the work is stopped, all stages together; None never stops it.
            lm: The LM of this call, for all stages.
            debug: Whether the response has the messages that the model was sent.
            tenant: Whose call it is; None is the adapter's.
            priority: ``"batch"`` lets interactive calls go first.
            budget: What the call may spend in all; None is what the settings say.

        Raises:
            UnknownProgram: There is none, or it is of another session or tenant.
            SessionExpired: Its session was not used for longer than its ``ttl``.
            DspexError: As of ``generate``. Of several stages ``details["stage"]`` is the number of the one
                that failed.
            RuntimeError: Called on the runtime's own event loop; await ``aexecute_program`` there.
        """
        question = self._asked(inputs, prompt, timeout, lm, debug, tenant, priority, budget)
        return self._take(self._execute(program_id, session_id, question), "aexecute_program")

    async def aexecute_program(
        self,
        program_id: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        prompt: Prompt | None = None,
        session_id: str | None = None,
        timeout: float | Unset | None = UNSET,
        lm: LM | str | None = None,
        debug: bool = False,
        tenant: str | None = None,
        priority: Priority = "interactive",
        budget: Budget | None = None,
    ) -> Response:
        """``execute_program`` for event loops. Cancelling it stops the work."""
        question = self._asked(inputs, prompt, timeout, lm, debug, tenant, priority, budget)
        return await self._atake(self._execute(program_id, session_id, question))

    # Steps

    def _asked(
        self,
        inputs: Mapping[str, Any] | None,
        prompt: Prompt | None,
        timeout: float | Unset | None,
        lm: LM | str | None,
        debug: bool,
        tenant: str | None,
        priority: Priority,
        budget: Budget | None = None,
    ) -> Question:
        return Question(
            prompt,
            inputs=inputs,
            debug=debug,
            lm=lm,
            deadline=self._deadline(timeout),
            caller=caller(self._tenant if tenant is None else tenant, priority, budget),
        )

    def _create(self, draft: Draft, session: Session | str | None, name: str | None) -> Steps[Program]:
        made = yield from drafts.make(self._open.core, draft)
        program: Program = yield from self._store(made, session, name)
        return program

    def _import(self, document: Any, session: Session | str | None, name: str | None) -> Steps[Program]:
        read, named = imported(document)
        core = self._open.core
        drafts.check_lms(core, read.document)
        made = yield from drafts.make(core, drafts.as_draft(read))
        program: Program = yield from self._store(made, session, named if name is None else name)
        return program

    def _store(self, made: Made, session: Session | str | None, name: str | None) -> Steps[Program]:
        from dspex.adapter.program import Program

        core, tenant = self._open.core, self._tenant or ""
        if name is not None:
            check("a program's name", name)  # before a session is made for it
        if isinstance(session, SessionBase):
            session_id = session.id
        else:
            session_id = yield from stored.home(core, tenant, session)
        current = yield from stored.store(core, tenant, session_id, made, name)
        return Program(cast("DSPyAdapter", self), tenant, current)

    def _execute(self, program_id: str, session_id: str | None, question: Question) -> Steps[Response]:
        core, tenant = self._open.core, question.caller.tenant
        ran, current = yield from stored.execute(core, tenant, program_id, session_id, question, self._lm)
        response = self._response(ran)
        response.program_version = current.version
        return response

    def _dump(self, made: Made) -> Steps[dict[str, Any]]:
        """What DSPy would save of a program of one stage, of which a worker sees whether it can be built."""
        core = self._open.core
        stages = Stages(made.document, made.tools, core.models.references, core.tracing)
        dumped: dict[str, Any] = yield from stages.dump()
        return dumped
