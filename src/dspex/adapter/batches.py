"""Batches: many items through one program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from dspex.adapter.base import UNSET, GivenSignature, Sandbox, Unset
from dspex.adapter.itemwise import Options, Progress, Whole, encoded, opener
from dspex.adapter.outcomes import AsyncOutcomes, Ended, Open, Outcomes
from dspex.adapter.streams import Streams
from dspex.batch.batch import Items
from dspex.lm.profile import LM
from dspex.lm.reference import identity
from dspex.runtime.caller import Priority, caller
from dspex.runtime.question import Question
from dspex.runtime.steps import Steps
from dspex.types import Budget

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dspex.adapter.response import Response


class Batches(Streams):
    """Many items at once; see ``DSPyAdapter``."""

    @overload
    def batch(self, items: Items, *, as_completed: Literal[True], **how: Any) -> Outcomes: ...

    @overload
    def batch(self, items: Items, *, as_completed: Literal[False] = False, **how: Any) -> list[Ended]: ...

    @overload
    def batch(self, items: Items, *, as_completed: bool, **how: Any) -> list[Ended] | Outcomes: ...

    def batch(
        self,
        items: Items,
        *,
        module: str | type[Any] = "dspy.Predict",
        signature: GivenSignature | None = None,
        lm: LM | str | None = None,
        timeout: float | Unset | None = UNSET,
        concurrency: int | None = None,
        journal: str | Path | None = None,
        retry_failed: bool = False,
        retries: int = 0,
        max_errors: int | None = None,
        max_cost: float | None = None,
        progress: Progress = None,
        as_completed: bool = False,
        tools: Sequence[Any] | None = None,
        sandbox: Sandbox = "auto",
        debug: bool = False,
        tenant: str | None = None,
        priority: Priority = "batch",
        budget: Budget | None = None,
        options: Mapping[str, Any] | None = None,
        **more_options: Any,
    ) -> list[Ended] | Outcomes:
        """Run many items through one program, as many at once as the pool and the LM take.

        An item that fails costs no other one anything. When the provider says that it is asked too much,
        fewer are asked at once, and those that were refused are asked again.

        Args:
            items: The items, each a prompt (text, or a list of messages) or a dict of inputs by name: a list,
                an iterator, which is read as items are asked, or an asynchronous one.
            module: This and all that is not named here: as of ``generate``.
            signature: As of ``generate``.
            lm: As of ``generate``.
            timeout: Seconds after which the work on an item is stopped, each time that it is asked.
            concurrency: How many items are asked at once; None is most of what the pool can run, or what the
                LM's ``Limits(in_flight=...)`` allows; two for the embedded model.
            journal: A file for the outcomes, each written before anything else is asked. The same call with
                the same file goes on where it ended, however it did: what is recorded is not asked again. An
                item that has changed at its place is.
            retry_failed: Whether items that failed, by the journal, are asked again.
            retries: How often an item is asked again after an error that is ``retryable``.
            max_errors: Stop when so many items have failed.
            max_cost: Stop when the answers have cost so many US dollars, as far as prices are known.
            progress: Called with a ``BatchProgress`` ten times a second at most, and at the end; True shows a
                bar on standard error if that is a terminal.
            as_completed: Whether to give outcomes as they come, in an iterator, and not in a list.
            tools: As of ``generate``.
            sandbox: As of ``generate``.
            debug: As of ``generate``.
            tenant: As of ``generate``.
            priority: ``"batch"`` lets interactive calls go first.
            budget: What each item may spend; None is what the settings say.
            options: As of ``generate``.
            **more_options: As of ``generate``.

        Returns:
            An ``Outcome`` for each item, in order. When the batch was stopped, those that were not asked have
            the error ``cancelled`` or ``budget_exceeded``; an iterator ends.

        Raises:
            Refused: Something is wrong with all items: module, signature, options. None was asked.
            Conflict: Another process writes the journal.
            StoreError: The journal cannot be written; what it has is not lost.
            RuntimeError: Called on the runtime's own event loop; await ``abatch`` there.
        """
        run = Options(concurrency, journal, retry_failed, retries, max_errors, max_cost, progress)
        whose = caller(self._tenant if tenant is None else tenant, priority, budget)
        given = {**(options or {}), **more_options}

        def question(prompt: Any, inputs: Any) -> Question:
            return self._question(
                prompt, module, signature, inputs, lm, timeout, whose, given, tools, sandbox, debug
            )

        self._open.portal.refuse_loop("abatch")
        outcomes = Outcomes(self._opener(items, question, run))
        return outcomes if as_completed else outcomes.whole()

    def abatch(
        self,
        items: Items,
        *,
        module: str | type[Any] = "dspy.Predict",
        signature: GivenSignature | None = None,
        lm: LM | str | None = None,
        timeout: float | Unset | None = UNSET,
        concurrency: int | None = None,
        journal: str | Path | None = None,
        retry_failed: bool = False,
        retries: int = 0,
        max_errors: int | None = None,
        max_cost: float | None = None,
        progress: Progress = None,
        as_completed: bool = False,
        tools: Sequence[Any] | None = None,
        sandbox: Sandbox = "auto",
        debug: bool = False,
        tenant: str | None = None,
        priority: Priority = "batch",
        budget: Budget | None = None,
        options: Mapping[str, Any] | None = None,
        **more_options: Any,
    ) -> AsyncOutcomes:
        """``batch`` for event loops: await it, or read it with ``async for`` when ``as_completed=True``."""
        run = Options(concurrency, journal, retry_failed, retries, max_errors, max_cost, progress)
        whose = caller(self._tenant if tenant is None else tenant, priority, budget)
        given = {**(options or {}), **more_options}

        def question(prompt: Any, inputs: Any) -> Question:
            return self._question(
                prompt, module, signature, inputs, lm, timeout, whose, given, tools, sandbox, debug
            )

        return AsyncOutcomes(self._opener(items, question, run), as_completed=as_completed)

    def _opener(self, items: Items, question: Callable[[Any, Any], Question], run: Options) -> Open:
        async def whole() -> Whole:
            asked = question(None, None).with_default(self._lm)
            found = await self._route.identity(asked)
            model = None if found.lm is None else identity(found.lm)
            says = {"module": found.module, "signature": _said(asked.signature), "lm": model}
            return Whole(found.program + encoded(says), says, found.lm, found.shared)

        def steps(prompt: Any, inputs: Any) -> Steps[Response]:
            return self._run(question(prompt, inputs), None)

        return opener(self, items, whole, steps, run)


def _said(signature: Any) -> str | None:
    return signature if isinstance(signature, str) else getattr(signature, "text", None)
