"""What the parts of an adapter share: its options, its runtime, and the way of a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from dspex.adapter.response import Response, StageResult, Timing
from dspex.adapter.session.base import Base as SessionBase
from dspex.errors import InvalidOption
from dspex.lm.profile import LM
from dspex.program.classes import named
from dspex.program.importpath import name_of
from dspex.program.signature import Signature
from dspex.runtime import steps
from dspex.runtime.caller import Caller, check_tenant
from dspex.runtime.question import Question, deadline_in
from dspex.runtime.route import Route
from dspex.runtime.stages import Ran, single
from dspex.runtime.steps import OnLoop, Steps
from dspex.runtime.turns import InSession, in_session
from dspex.session.names import check
from dspex.settings import Settings
from dspex.tools import ToolRecord
from dspex.wire.jsonready import json_ready

if TYPE_CHECKING:
    from dspex.adapter.runtime import Runtime
    from dspex.adapter.session.session import Session

T = TypeVar("T")
#: Text, a dict, a ``Signature``, a class, or the import path of one.
GivenSignature = str | Signature | Mapping[str, Any] | type[Any]
Prompt = str | Sequence[Mapping[str, Any]]
Sandbox = Literal["auto", "monty", "deno", "local"]


class Unset:
    def __repr__(self) -> str:
        return "the adapter's"


UNSET = Unset()


class Base:
    """What the parts of an adapter share; see ``DSPyAdapter``."""

    def __init__(
        self,
        pool: str = "general",
        timeout: float | None = 30.0,
        *,
        lm: LM | str | None = None,
        tenant: str | None = None,
        module_config: Mapping[str, Mapping[str, Any]] | None = None,
        serialization_format: Literal["python", "json"] = "python",
        settings: Settings | None = None,
        _runtime: Runtime | None = None,
    ) -> None:
        deadline_in(timeout)
        if serialization_format not in {"python", "json"}:
            raise InvalidOption(
                f"serialization_format is 'python' or 'json', not {serialization_format!r}",
                details={"option": "serialization_format"},
            )
        self._pool = pool
        self._timeout = timeout
        self._lm = lm
        check_tenant(tenant)
        self._tenant = tenant
        self._module_config = {name_of(name): dict(o) for name, o in (module_config or {}).items()}
        self._json = serialization_format == "json"
        self._settings = settings
        self._runtime = _runtime
        self._owns_runtime = False

    # A runtime of its own

    def _own_runtime(self) -> Runtime:
        from dspex.adapter.runtime import Runtime

        if self._runtime is not None:
            raise RuntimeError("this adapter belongs to an open runtime; enter that one")
        self._runtime = Runtime(self._lm, settings=self._settings)
        self._owns_runtime = True
        return self._runtime

    def __enter__(self) -> Self:
        self._own_runtime().open()
        return self

    async def __aenter__(self) -> Self:
        await self._own_runtime().aopen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runtime is not None and self._owns_runtime:
            self._runtime.close()
            self._runtime = None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runtime is not None and self._owns_runtime:
            await self._runtime.aclose()
            self._runtime = None

    # Steps

    def _take(self, taken: Steps[T], twin: str) -> T:
        """Take steps on this thread; ``twin`` is what has to be awaited on the runtime's own loop."""
        return steps.run(taken, self._open.portal, self._route, twin)

    async def _atake(self, taken: Steps[T]) -> T:
        """Take steps on an event loop."""
        return await steps.arun(taken, self._open.portal, self._route)

    # The way of a call

    def _deadline(self, timeout: float | Unset | None) -> float | None:
        return deadline_in(self._timeout if isinstance(timeout, Unset) else timeout)

    @property
    def _open(self) -> Runtime:
        if self._runtime is None:
            raise RuntimeError(
                "this adapter has no runtime: use `with DSPyAdapter(...)`, or runtime.adapter()"
            )
        return self._runtime

    def _question(
        self,
        prompt: Prompt | None,
        module: str | type[Any],
        signature: GivenSignature | None,
        inputs: Mapping[str, Any] | None,
        lm: LM | str | None,
        timeout: float | Unset | None,
        whose: Caller,
        options: dict[str, Any],
        tools: Sequence[Any] | None,
        sandbox: str,
        debug: bool,
    ) -> Question:
        module = named(module)
        if self._module_config:
            options = {**self._module_config.get(name_of(module), {}), **options}
        return Question(
            prompt,
            module,
            signature,
            inputs,
            options,
            tools,
            sandbox,
            debug,
            lm,
            self._deadline(timeout),
            whose,
        )

    @property
    def _route(self) -> Route:
        return self._open.route(self._pool)

    def _run(self, question: Question, session: Session | str | None) -> Steps[Response]:
        """Ask one module, in a session if one is given."""
        if session is None:
            ran = yield from single(question, self._lm)
        else:
            place = yield from self._place(question, session)
            ran = yield from in_session(self._open.core, place, question, single)
        return self._response(ran)

    def _place(self, question: Question, session: Session | str) -> Steps[InSession]:
        """Where a call in a session belongs; a session that is named by its id is made if there is none."""
        tenant = question.caller.tenant
        if isinstance(session, SessionBase):
            return InSession(tenant, session.id, default=self._lm)
        core = self._open.core
        check("a session's id", session)
        yield OnLoop(lambda: core.sessions.ensure(tenant, session))
        return InSession(tenant, session, default=self._lm)

    def _response(self, ran: Ran) -> Response:
        last, requests, told = ran.answers[-1], ran.requests, ran.answers[-1].told
        trajectory, messages = told.get("trajectory"), [a.told.get("messages") for a in ran.answers]
        return Response(
            json_ready(ran.outputs) if self._json else ran.outputs,
            completions=json_ready(last.completions) if self._json else last.completions,
            usage=ran.usage,
            cost=ran.cost,
            timing=Timing(
                queued=sum(answer.done.queued for answer in ran.answers),
                built=sum(answer.told.get("built", 0.0) for answer in ran.answers),
                run=sum(answer.done.seconds for answer in ran.answers),
                model=sum(request.seconds for request in requests),
                total=last.total,
            ),
            attempts=ran.attempts,
            requests=requests,
            worker=last.done.worker,
            request_id=last.request_id,
            adapter=told.get("adapter"),
            trajectory=json_ready(trajectory) if self._json else trajectory,
            messages=[one for some in messages for one in some or ()] if any(messages) else messages[-1],
            tool_calls=[
                ToolRecord(**called) for answer in ran.answers for called in answer.told.get("tool_calls", ())
            ],
            model=ran.model,
            stages=[
                StageResult(
                    module,
                    json_ready(answer.outputs) if self._json else answer.outputs,
                    answer.usage,
                    answer.cost,
                    seconds,
                )
                for module, answer, seconds in zip(ran.modules, ran.answers, ran.seconds, strict=True)
            ],
            recorded=ran.recorded,
            cached=ran.cached,
            fallbacks=ran.fallbacks,
        )
