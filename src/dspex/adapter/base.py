"""What the parts of an adapter share: its options, its runtime, and the way of a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from dspex.adapter.response import Response, Timing, json_ready
from dspex.errors import InvalidOption
from dspex.lm.profile import LM
from dspex.program.classes import named
from dspex.program.importpath import name_of
from dspex.program.signature import Signature
from dspex.runtime import steps
from dspex.runtime.call import Answer
from dspex.runtime.caller import Caller, check_tenant
from dspex.runtime.question import Question, deadline_in
from dspex.runtime.route import Route
from dspex.runtime.steps import Steps
from dspex.settings import Settings
from dspex.tools import ToolRecord

if TYPE_CHECKING:
    from dspex.adapter.runtime import Runtime

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
            self._lm if lm is None else lm,
            self._deadline(timeout),
            whose,
        )

    @property
    def _route(self) -> Route:
        return self._open.route(self._pool)

    def _response(self, answer: Answer) -> Response:
        requests, trajectory = answer.requests, answer.told.get("trajectory")
        return Response(
            json_ready(answer.outputs) if self._json else answer.outputs,
            completions=json_ready(answer.completions) if self._json else answer.completions,
            usage=answer.usage,
            cost=answer.cost,
            timing=Timing(
                queued=answer.done.queued,
                built=answer.told.get("built", 0.0),
                run=answer.done.seconds,
                model=sum(request.seconds for request in requests),
                total=answer.total,
            ),
            attempts=answer.done.attempts,
            requests=requests,
            worker=answer.done.worker,
            request_id=answer.request_id,
            adapter=answer.told.get("adapter"),
            trajectory=json_ready(trajectory) if self._json else trajectory,
            messages=answer.told.get("messages"),
            tool_calls=[ToolRecord(**called) for called in answer.told.get("tool_calls", ())],
            model=next((r.model for r in reversed(requests) if r.status == "ok"), None),
        )
