"""The adapter: DSPy programs by one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from dspex.adapter.capabilities import Capabilities, found
from dspex.adapter.described import Described, described
from dspex.adapter.program import Program
from dspex.adapter.response import Response, Timing, json_ready
from dspex.errors import InvalidOption
from dspex.lm.named import configured
from dspex.lm.profile import LM
from dspex.program.classes import named
from dspex.program.importpath import name_of
from dspex.program.saved import Given
from dspex.program.signature import Signature
from dspex.runtime.call import Answer
from dspex.runtime.caller import Caller, Priority, caller, check_tenant
from dspex.runtime.question import Question, deadline_in
from dspex.runtime.route import Route
from dspex.settings import Settings
from dspex.tools import ToolRecord

if TYPE_CHECKING:
    from dspex.adapter.runtime import Runtime

#: Text, a dict, a ``Signature``, a class, or the import path of one.
GivenSignature = str | Signature | Mapping[str, Any] | type[Any]
Prompt = str | Sequence[Mapping[str, Any]]
Sandbox = Literal["auto", "monty", "deno", "local"]


class _Unset:
    def __repr__(self) -> str:
        return "the adapter's"


_UNSET = _Unset()


def _with_arguments(how: dict[str, Any], arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    return how if arguments is None else {**how, "arguments": arguments}


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
        self._lm = configured(provider, config)
        return self._lm

    def capabilities(self) -> Capabilities:
        """What can be done here. Nothing is asked of anybody, so this works anywhere.

        What workers have told is there once the first of them is ready; before that, and without a runtime,
        it is what this version of dspex knows.
        """
        return found(None if self._runtime is None else self._runtime.core.catalogue)

    # Calls

    def generate(
        self,
        prompt: Prompt | None = None,
        *,
        module: str | type[Any] = "dspy.Predict",
        signature: GivenSignature | None = None,
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
                of a ``dspy.Module`` of your own (``"shop.support:Router"``), or its class, which
                ``Settings(allow_modules=...)`` has to allow.
            signature: What goes in and comes out: text (``"question -> answer"``), a dict with ``inputs``,
                ``outputs`` and ``instructions``, a ``Signature``, a ``dspy.Signature`` class, a pydantic
                model, whose fields are the outputs, or the import path of such a class. None is
                ``prompt -> response``. A module of your own takes none: its inputs are the parameters of its
                ``forward`` or ``aforward``.
            inputs: Inputs by field name.
            lm: The LM of this call; None is the adapter's, then the runtime's.
            timeout: Seconds after which the work is stopped; None never stops it.
            tools: What the module may call: functions of yours, ``Tool``s, import paths, ``MCPServer``s.
            sandbox: Where code that the model wrote is run: ``"monty"``, ``"deno"``, or ``"auto"``.
            debug: Whether the response has the messages that the model was sent.
            tenant: Whose call it is; None is the adapter's.
            priority: ``"batch"`` lets interactive calls go first.
            options: Options of the module whose names clash with a parameter's here.
            **more_options: Options of the module (``temperature``, ``max_tokens``, ``n``, …); of one of your
                own ``arguments`` (of its constructor, by name), ``shared`` and ``idempotent``. Any module
                takes ``state``: the JSON file that ``module.save()`` wrote, or what ``module.dump_state()``
                gives.

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
        return self._response(self._route.ask(question, "agenerate"))

    async def agenerate(
        self,
        prompt: Prompt | None = None,
        *,
        module: str | type[Any] = "dspy.Predict",
        signature: GivenSignature | None = None,
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
        return self._response(await self._route.aask(question))

    def program(
        self,
        module: str | type[Any],
        *,
        arguments: Mapping[str, Any] | None = None,
        state: Given | None = None,
        **how: Any,
    ) -> Program:
        """A program to be called again and again, whose state may change meanwhile.

        It is built once in a worker before this returns, so that one which cannot be is known at once.

        Args:
            module: As of ``generate``.
            arguments: What the constructor of a program of your own takes, by parameter name.
            state: The JSON file that ``module.save("x.json")`` wrote, or what ``module.dump_state()`` gives.
            **how: What else ``generate`` takes, for all its calls: ``signature``, ``lm``, ``timeout``,
                ``tenant``, options of the module, ….

        Raises:
            InvalidOption: The constructor has no such arguments, or the state is not of this program.
            DspexError: The program could not be built.
            RuntimeError: Called on the runtime's own event loop; await ``aprogram`` there.
        """
        made = Program(self, named(module), _with_arguments(how, arguments))
        made._load(state, "aprogram")
        return made

    async def aprogram(
        self,
        module: str | type[Any],
        *,
        arguments: Mapping[str, Any] | None = None,
        state: Given | None = None,
        **how: Any,
    ) -> Program:
        """``program`` for event loops."""
        made = Program(self, named(module), _with_arguments(how, arguments))
        await made.aswap(state)
        return made

    # Descriptions

    def describe(
        self, signature_or_module: GivenSignature, *, timeout: float | _Unset | None = _UNSET
    ) -> Described:
        """The fields of a signature or a program with their types and JSON Schemas, or what a module takes.

        No LM is asked. A class or an import path of yours is imported in a worker.

        Args:
            signature_or_module: A signature in any form that ``generate`` takes, the name of a DSPy module,
                or the import path of a signature or of a ``dspy.Module`` of your own.
            timeout: Seconds after which the work is stopped; None never stops it.

        Raises:
            Refused: It is neither.
            RuntimeError: Called on the runtime's own event loop; await ``adescribe`` there.
        """
        asked, told = self._route.describe(signature_or_module, self._deadline(timeout), "adescribe")
        return described(asked, told)

    async def adescribe(
        self, signature_or_module: GivenSignature, *, timeout: float | _Unset | None = _UNSET
    ) -> Described:
        """``describe`` for event loops."""
        return described(*await self._route.adescribe(signature_or_module, self._deadline(timeout)))

    def _deadline(self, timeout: float | _Unset | None) -> float | None:
        return deadline_in(self._timeout if isinstance(timeout, _Unset) else timeout)

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
        timeout: float | _Unset | None,
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
