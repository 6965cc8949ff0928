"""The adapter: DSPy programs by one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dspex.adapter.base import UNSET, GivenSignature, Prompt, Sandbox, Unset
from dspex.adapter.batches import Batches
from dspex.adapter.capabilities import Capabilities, found
from dspex.adapter.described import Described, described
from dspex.adapter.loaded import LoadedProgram
from dspex.adapter.named import NamedProgram
from dspex.adapter.response import Response
from dspex.adapter.sessions import Sessions
from dspex.errors import ModuleNotFound
from dspex.lm.named import configured
from dspex.lm.profile import LM
from dspex.program.catalogue import find
from dspex.program.classes import named
from dspex.program.importpath import is_path
from dspex.program.saved import Given
from dspex.program.suggest import nearest
from dspex.runtime import named as programs
from dspex.runtime.caller import Priority, caller
from dspex.runtime.drafts import Draft
from dspex.types import Budget

if TYPE_CHECKING:
    from dspex.adapter.session.session import Session


def _with_arguments(how: dict[str, Any], arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    return how if arguments is None else {**how, "arguments": arguments}


def _with_given(
    how: dict[str, Any], arguments: Mapping[str, Any] | None, state: Given | None
) -> dict[str, Any]:
    given = {name: value for name, value in (("arguments", arguments), ("state", state)) if value is not None}
    return {**how, **given}


class DSPyAdapter(Batches, Sessions):
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
        timeout: float | Unset | None = UNSET,
        session: Session | str | None = None,
        tools: Sequence[Any] | None = None,
        sandbox: Sandbox = "auto",
        debug: bool = False,
        tenant: str | None = None,
        priority: Priority = "interactive",
        budget: Budget | None = None,
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
            session: The session whose turn it is, or the id of one, which is made if there is none. A
                signature with a ``dspy.History`` gets the session's turns.
            tools: What the module may call: functions of yours, ``Tool``s, import paths, ``MCPServer``s.
            sandbox: Where code that the model wrote is run: ``"monty"``, ``"deno"``, or ``"auto"``.
            debug: Whether the response has the messages that the model was sent.
            tenant: Whose call it is; None is the adapter's.
            priority: ``"batch"`` lets interactive calls go first.
            budget: What the call may spend in all; None is what the settings say.
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
            caller(self._tenant if tenant is None else tenant, priority, budget),
            {**(options or {}), **more_options},
            tools,
            sandbox,
            debug,
        )
        return self._take(self._run(question, session), "agenerate")

    async def agenerate(
        self,
        prompt: Prompt | None = None,
        *,
        module: str | type[Any] = "dspy.Predict",
        signature: GivenSignature | None = None,
        inputs: Mapping[str, Any] | None = None,
        lm: LM | str | None = None,
        timeout: float | Unset | None = UNSET,
        session: Session | str | None = None,
        tools: Sequence[Any] | None = None,
        sandbox: Sandbox = "auto",
        debug: bool = False,
        tenant: str | None = None,
        priority: Priority = "interactive",
        budget: Budget | None = None,
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
            caller(self._tenant if tenant is None else tenant, priority, budget),
            {**(options or {}), **more_options},
            tools,
            sandbox,
            debug,
        )
        return await self._atake(self._run(question, session))

    def program(
        self,
        module: str | type[Any],
        *,
        arguments: Mapping[str, Any] | None = None,
        state: Given | None = None,
        **how: Any,
    ) -> LoadedProgram | NamedProgram:
        """A program to be called again and again, whose state may change meanwhile.

        It is built once in a worker before this returns, so that one which cannot be is known at once.

        Args:
            module: The name of a program of the settings (``"triage"``); or a module, as of ``generate``.
            arguments: What the constructor of a program of your own takes, by parameter name.
            state: The JSON file that ``module.save("x.json")`` wrote, or what ``module.dump_state()`` gives.
            **how: What else ``generate`` takes, for all its calls: ``signature``, ``lm``, ``timeout``,
                ``tenant``, options of the module, …. A program of the settings takes ``lm``, ``timeout``,
                ``session``, ``tenant``, ``priority``, ``budget`` and ``debug``; the rest is in the settings.

        Raises:
            ModuleNotFound: There is neither a program nor a module of that name.
            InvalidOption: The constructor has no such arguments, or the state is not of this program.
            DspexError: The program could not be built.
            RuntimeError: Called on the runtime's own event loop; await ``aprogram`` there.
        """
        draft = self._named(module)
        if draft is not None:
            how = _with_given(how, arguments, state)
            return self._take(NamedProgram(self, str(module), how)._load(draft), "aprogram")
        made = LoadedProgram(self, named(module), _with_arguments(how, arguments))
        made._load(state, "aprogram")
        return made

    async def aprogram(
        self,
        module: str | type[Any],
        *,
        arguments: Mapping[str, Any] | None = None,
        state: Given | None = None,
        **how: Any,
    ) -> LoadedProgram | NamedProgram:
        """``program`` for event loops."""
        draft = self._named(module)
        if draft is not None:
            how = _with_given(how, arguments, state)
            return await self._atake(NamedProgram(self, str(module), how)._load(draft))
        made = LoadedProgram(self, named(module), _with_arguments(how, arguments))
        await made.aswap(state)
        return made

    def _named(self, name: object) -> Draft | None:
        """What the settings say of a program of that name; None where there is none.

        Raises:
            ModuleNotFound: It is no name of a program, of a module or of an import path.
        """
        if not isinstance(name, str) or is_path(name):
            return None
        settings = self._open.core.settings
        draft = programs.draft(settings, name)
        if draft is None and settings.programs:
            try:
                find(name)
            except ModuleNotFound as error:
                close = nearest(name, settings.programs)
                hint = f"did you mean {close!r}?" if close else f"they are {', '.join(settings.programs)}"
                raise ModuleNotFound(
                    f"the settings have no program {name[:80]!a}; {hint} And there is no such module: "
                    f"{error.message}",
                    details={**error.details, "programs": list(settings.programs)},
                ) from None
        return draft

    # Descriptions

    def describe(
        self, signature_or_module: GivenSignature, *, timeout: float | Unset | None = UNSET
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
        self, signature_or_module: GivenSignature, *, timeout: float | Unset | None = UNSET
    ) -> Described:
        """``describe`` for event loops."""
        return described(*await self._route.adescribe(signature_or_module, self._deadline(timeout)))
