"""The adapter: DSPy programs by one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from dspex import checks
from dspex.adapter.response import Response, Timing, json_ready
from dspex.errors import InvalidOption
from dspex.lm import providers
from dspex.lm.profile import LM
from dspex.pool.work import Done
from dspex.program.described import Description
from dspex.program.importpath import is_path, name_of
from dspex.program.signature import Signature
from dspex.runtime.call import Answer, Prepared, Question, deadline_in, prepare, read, send
from dspex.runtime.caller import Caller, Priority, caller, check_tenant
from dspex.runtime.modules import describe, known
from dspex.settings import Settings
from dspex.tools import ToolRecord

if TYPE_CHECKING:
    from dspex.adapter.runtime import Runtime

Prompt = str | Sequence[Mapping[str, Any]]
Sandbox = Literal["auto", "monty", "deno", "local"]


class _Unset:
    def __repr__(self) -> str:
        return "the adapter's"


_UNSET = _Unset()


class DSPyAdapter:
    """Runs DSPy programs in a pool of workers.

    ``runtime.adapter(...)`` gives one that shares the runtime. Made by itself it opens a runtime of its own
    when it is entered (``with`` or ``async with``).

    Args:
        pool: Name of the pool.
        timeout: Seconds after which a call's work is stopped, unless the call says otherwise; None never.
        lm: The LM of calls that name none; None is the runtime's.
        tenant: Whose calls they are, unless a call says otherwise; tenants take turns when calls have to
            wait.
        module_config: Options by module name, under those of a call.
        serialization_format: ``"python"`` gives outputs as Python values, ``"json"`` as JSON-ready data.
        settings: For a runtime of its own.

    Raises:
        InvalidOption: An option has a value that it does not take.
    """

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

    # Configuration

    def configure(self, provider: str, **config: Any) -> LM:
        """Make an LM this adapter's. Nothing is sent to the provider.

        Args:
            provider: One that the table of providers lists (``openai``, ``azure``, ``ollama``, ``local``, …).
            **config: ``model`` and whatever else ``LM`` takes.

        Returns:
            The LM, checked.

        Raises:
            UnknownProvider: No such provider; the message lists them.
            InvalidOption: The configuration is not one that ``LM`` takes.
        """
        # An engine that is named may know a provider that the table does not.
        is_named = isinstance(provider, str) and bool(provider)
        known = None if is_named and config.get("engine") is not None else providers.find(provider)
        model = config.pop("model", None)
        checks.text("model", model)
        if provider == "local":
            name = "local" if model in {None, "local"} else f"local:{model.removeprefix('local:')}"
        elif model is None:
            raise InvalidOption(
                f"configure({provider!r}) needs model=..., the model's name", details={"option": "model"}
            )
        else:
            names = {provider, known.name, known.prefix, *known.aliases} if known else {provider}
            prefix, slash, _ = model.partition("/")
            name = model if slash and prefix in names else f"{provider}/{model}"
        self._lm = LM(name, **config)
        return self._lm

    # Calls

    def generate(
        self,
        prompt: Prompt | None = None,
        *,
        module: str = "dspy.Predict",
        signature: str | Signature | None = None,
        inputs: Mapping[str, Any] | None = None,
        lm: LM | str | None = None,
        timeout: float | _Unset | None = _UNSET,
        tools: Sequence[Any] | None = None,
        sandbox: Sandbox = "auto",
        debug: bool = False,
        tenant: str | None = None,
        priority: Priority = "interactive",
        options: Mapping[str, Any] | None = None,
        **more_options: Any,
    ) -> Response:
        """Run a program and wait for its outputs.

        Args:
            prompt: Fills the one input that ``inputs`` does not give. A list of messages
                (``{"role": ..., "content": ...}``): the last is the prompt, those before it the history.
            module: Which DSPy module, ``"dspy.ChainOfThought"`` or ``"ChainOfThought"``; or the import path
                of a ``dspy.Module`` of your own (``"shop.support:Router"``), which
                ``Settings(allow_modules=...)`` has to allow.
            signature: What goes in and comes out (``"question -> answer"``); None is
                ``prompt -> response``. A module of your own takes none: its inputs are the parameters of its
                ``forward`` or ``aforward``.
            inputs: Inputs by field name.
            lm: The LM of this call; None is the adapter's, then the runtime's.
            timeout: Seconds after which the work is stopped; None never stops it.
            tools: What the module may call: functions of yours, ``Tool``s, import paths.
            sandbox: Where code that the model wrote is run: ``"monty"``, ``"deno"``, or ``"auto"``.
            debug: Whether the response has the messages that the model was sent.
            tenant: Whose call it is; None is the adapter's.
            priority: ``"batch"`` lets interactive calls go first.
            options: Options of the module whose names clash with a parameter's here.
            **more_options: Options of the module (``temperature``, ``max_tokens``, ``n``, …); of one of your
                own ``shared`` and ``idempotent``, for this call.

        Raises:
            Refused: The call was refused before an LM was asked.
            PythonTimeout: The deadline passed; the work is stopped.
            DspexError: Any other end, see ``dspex.errors``.
            RuntimeError: Called on the runtime's own event loop; await ``agenerate`` there.
        """
        question = self._question(
            prompt,
            module,
            signature,
            inputs,
            lm,
            timeout,
            caller(self._tenant if tenant is None else tenant, priority),
            {**(options or {}), **more_options},
            tools,
            sandbox,
            debug,
        )
        users = self._known(question)
        if users is None and is_path(module):
            users = self._open.portal.run(lambda: self._describe(question), "agenerate")
        prepared = self._prepare(question, users)
        done = self._open.portal.run(lambda: self._send(prepared), "agenerate")
        return self._response(read(prepared, done))

    async def agenerate(
        self,
        prompt: Prompt | None = None,
        *,
        module: str = "dspy.Predict",
        signature: str | Signature | None = None,
        inputs: Mapping[str, Any] | None = None,
        lm: LM | str | None = None,
        timeout: float | _Unset | None = _UNSET,
        tools: Sequence[Any] | None = None,
        sandbox: Sandbox = "auto",
        debug: bool = False,
        tenant: str | None = None,
        priority: Priority = "interactive",
        options: Mapping[str, Any] | None = None,
        **more_options: Any,
    ) -> Response:
        """``generate`` for event loops. Cancelling it stops the work."""
        question = self._question(
            prompt,
            module,
            signature,
            inputs,
            lm,
            timeout,
            caller(self._tenant if tenant is None else tenant, priority),
            {**(options or {}), **more_options},
            tools,
            sandbox,
            debug,
        )
        users = self._known(question)
        if users is None and is_path(module):
            users = await self._open.portal.wait(lambda: self._describe(question))
        prepared = self._prepare(question, users, on_loop=True)
        done = await self._open.portal.wait(lambda: self._send(prepared))
        return self._response(read(prepared, done))

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
        module: str,
        signature: str | Signature | None,
        inputs: Mapping[str, Any] | None,
        lm: LM | str | None,
        timeout: float | _Unset | None,
        whose: Caller,
        options: dict[str, Any],
        tools: Sequence[Any] | None,
        sandbox: str,
        debug: bool,
    ) -> Question:
        if self._module_config:
            options = {**self._module_config.get(name_of(module), {}), **options}
        seconds = self._timeout if isinstance(timeout, _Unset) else timeout
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
            deadline_in(seconds),
            whose,
        )

    def _known(self, question: Question) -> Description | None:
        return known(question, self._open.core.modules)

    def _prepare(self, question: Question, users: Description | None, *, on_loop: bool = False) -> Prepared:
        settings = self._open.core.settings
        return prepare(
            question,
            self._open.programs,
            settings.max_payload,
            users=users,
            allow_modules=settings.allow_modules,
            on_loop=on_loop,
        )

    async def _describe(self, question: Question) -> Description:
        return await describe(question, self._open.core.modules, partial(self._open.core.pool, self._pool))

    async def _send(self, prepared: Prepared) -> Done:
        core = self._open.core
        core.pool(self._pool)  # a wrong name is told before a model is started
        return await send(prepared, partial(core.pool, self._pool), core.models, core.functions)

    def _response(self, answer: Answer) -> Response:
        requests = answer.requests
        return Response(
            json_ready(answer.outputs) if self._json else answer.outputs,
            completions=json_ready(answer.completions) if self._json else answer.completions,
            usage=answer.usage,
            cost=answer.cost,
            timing=Timing(
                queued=answer.done.queued,
                run=answer.done.seconds,
                model=sum(request.seconds for request in requests),
                total=answer.total,
            ),
            attempts=answer.done.attempts,
            requests=requests,
            worker=answer.done.worker,
            request_id=answer.request_id,
            trajectory=json_ready(answer.told.get("trajectory"))
            if self._json
            else answer.told.get("trajectory"),
            tool_calls=[ToolRecord(**called) for called in answer.told.get("tool_calls", ())],
            model=next((r.model for r in reversed(requests) if r.status == "ok"), None),
        )
