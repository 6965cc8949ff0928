"""A program that the settings name, as its users have it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from dspex.adapter.base import UNSET, Unset
from dspex.adapter.batched import Batched
from dspex.adapter.itemwise import Options, Whole, of_document, opener
from dspex.adapter.outcomes import Open
from dspex.adapter.response import Response
from dspex.adapter.stream import AsyncStream, Stream
from dspex.adapter.versions import Version, Versions
from dspex.batch.batch import Items
from dspex.errors import DspexError, InvalidOption
from dspex.lm.profile import LM
from dspex.program.document import Made
from dspex.program.saved import Given
from dspex.runtime import drafts
from dspex.runtime.caller import Priority, caller
from dspex.runtime.drafts import Draft
from dspex.runtime.question import Question
from dspex.runtime.stages import Ran, Stages
from dspex.runtime.steps import Steps
from dspex.runtime.turns import in_session
from dspex.types import Budget

if TYPE_CHECKING:
    from dspex.adapter.adapter import DSPyAdapter
    from dspex.adapter.session.session import Session


class NamedProgram(Batched):
    """A program of the settings; ``adapter.program("triage")`` gives one.

    Calling it runs it, all its stages: ``program(question="Why?")``, or with a prompt, ``program("Why?")``.
    It may be called from any thread; each call runs with one version from beginning to end.

    Attributes:
        name: Its name.
    """

    def __init__(self, adapter: DSPyAdapter, name: str, how: dict[str, Any]) -> None:
        self.name = name
        self._adapter = adapter
        self._how = _How.of(name, how)
        self._versions: Versions[Made] = Versions()

    def __repr__(self) -> str:
        return f"NamedProgram({self.name!r}, version={self.version})"

    @property
    def version(self) -> int:
        """Number of the version that a call made now runs with: 1 at first, one more with each swap."""
        return self._versions.current.number

    def having(self, **how: Any) -> NamedProgram:
        """This program with something else said for its calls, as of ``adapter.program``.

        Both have the same versions.
        """
        other = copy.copy(self)
        other._how = _How.of(self.name, {**self._how._asdict(), **how})
        return other

    @property
    def inputs(self) -> dict[str, str] | None:
        """Its inputs and their types; None of a program of your own, whose inputs are in its code."""
        signature = self._versions.current.held.document.signature
        return None if signature is None else {field.name: field.type for field in signature.inputs}

    def __call__(self, prompt: Any = None, /, **inputs: Any) -> Response:
        """Run it, and wait for its outputs.

        Args:
            prompt: Fills the one input that is not given by name.
            **inputs: Inputs by field name.

        Raises:
            DspexError: As of ``adapter.generate``. Of several stages ``details["stage"]`` is the number of
                the one that failed.
        """
        return self._adapter._take(self._run(prompt, inputs), "acall")

    async def acall(self, prompt: Any = None, /, **inputs: Any) -> Response:
        """The same for event loops."""
        return await self._adapter._atake(self._run(prompt, inputs))

    def stream(self, prompt: Any = None, /, **inputs: Any) -> Stream:
        """Run it and hear what happens while it runs; see ``adapter.stream``."""
        return Stream(self._adapter, self._run(prompt, inputs))

    def astream(self, prompt: Any = None, /, **inputs: Any) -> AsyncStream:
        """``stream`` for event loops."""
        return AsyncStream(self._adapter, self._run(prompt, inputs))

    def _opener(self, items: Items, how: dict[str, Any]) -> Open:
        version = self._versions.current

        async def whole() -> Whole:
            return of_document(self._adapter, version.held.document, self._how.lm, self.name)

        def steps(prompt: Any, inputs: Any) -> Steps[Response]:
            return self._run(prompt, inputs or {}, version, "batch")

        return opener(self._adapter, items, whole, steps, Options.of(how))

    def swap(self, state: Given | None) -> int:
        """Go on with another state, while calls run; see ``LoadedProgram.swap``.

        Raises:
            InvalidOption: The state is not of this program; nothing changes.
            RuntimeError: Called on the runtime's own event loop; await ``aswap`` there.
        """
        return self._adapter._take(self._swap(state), "aswap")

    async def aswap(self, state: Given | None) -> int:
        """``swap`` for event loops."""
        return await self._adapter._atake(self._swap(state))

    def rollback(self) -> int:
        """Go back to the version before, of which the last eight are kept; no worker is asked.

        Raises:
            InvalidOption: There is none.
        """
        return self._versions.back()

    # Steps

    def _load(self, draft: Draft) -> Steps[NamedProgram]:
        core = self._adapter._open.core
        try:
            made: Made = yield from drafts.make(core, draft)
        except DspexError as error:
            raise core.settings.blame(error, "program", self.name) from None
        if len(made.document.stages) == 1:
            yield from self._adapter._dump(made)  # a worker sees whether it can be built
        self._versions.add(made)
        return self

    def _swap(self, state: Given | None) -> Steps[int]:
        before = self._versions.current.held
        made: Made = yield from drafts.changed(self._adapter._open.core, before, {"state": state})
        yield from self._adapter._dump(made)
        return self._versions.add(made)

    def _run(
        self,
        prompt: Any,
        inputs: Mapping[str, Any],
        version: Version[Made] | None = None,
        priority: Priority | None = None,
    ) -> Steps[Response]:
        adapter, how = self._adapter, self._how
        version = version or self._versions.current
        document = version.held.document
        core = adapter._open.core
        stages = Stages(document, version.held.tools, core.models.references, core.tracing)
        tenant = adapter._tenant if how.tenant is None else how.tenant
        question = Question(
            prompt,
            inputs=inputs,
            debug=how.debug,
            lm=how.lm,
            deadline=adapter._deadline(how.timeout),
            caller=caller(tenant, priority or how.priority, how.budget),
        )
        if how.session is None:
            ran: Ran = yield from stages.run(question, adapter._lm)
        else:
            place = yield from adapter._place(question, how.session)
            whole = question.of_program(document.stages[-1].module, document.signature)
            ran = yield from in_session(adapter._open.core, place, whole, stages.run)
        response = adapter._response(ran)
        response.program_version = version.number
        return response


class _How(NamedTuple):
    """How the calls of a named program are made."""

    lm: LM | str | None = None
    timeout: float | Unset | None = UNSET
    session: Session | str | None = None
    tenant: str | None = None
    priority: Priority = "interactive"
    debug: bool = False
    budget: Budget | None = None

    @classmethod
    def of(cls, name: str, how: dict[str, Any]) -> _How:
        unknown = sorted(how.keys() - set(cls._fields))
        if unknown:
            raise InvalidOption(
                f"the program {name!r} has its {', '.join(unknown)} in the settings; here it takes "
                f"{', '.join(cls._fields)}",
                details={"option": unknown[0]},
            )
        return cls(**how)
