"""Programs whose items come in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from dspex.adapter.outcomes import AsyncOutcomes, Ended, Open, Outcomes

if TYPE_CHECKING:
    from dspex.adapter.adapter import DSPyAdapter
    from dspex.batch.batch import Items


class Batched:
    """A program that is asked many times at once."""

    _adapter: DSPyAdapter

    def _opener(self, items: Items, how: dict[str, Any]) -> Open:
        raise NotImplementedError

    @overload
    def batch(self, items: Items, *, as_completed: Literal[True], **how: Any) -> Outcomes: ...

    @overload
    def batch(self, items: Items, *, as_completed: Literal[False] = False, **how: Any) -> list[Ended]: ...

    @overload
    def batch(self, items: Items, *, as_completed: bool, **how: Any) -> list[Ended] | Outcomes: ...

    def batch(self, items: Items, *, as_completed: bool = False, **how: Any) -> list[Ended] | Outcomes:
        """Run many items through it.

        Args:
            items: As of ``adapter.batch``.
            as_completed: As of ``adapter.batch``.
            **how: ``concurrency``, ``journal``, ``retry_failed``, ``retries``, ``max_errors``, ``max_cost``
                and ``progress``, as of ``adapter.batch``.

        Raises:
            DspexError: As of ``adapter.batch``.
            RuntimeError: Called on the runtime's own event loop; await ``abatch`` there.
        """
        self._adapter._open.portal.refuse_loop("abatch")
        outcomes = Outcomes(self._opener(items, how))
        return outcomes if as_completed else outcomes.whole()

    def abatch(self, items: Items, *, as_completed: bool = False, **how: Any) -> AsyncOutcomes:
        """``batch`` for event loops: await it, or read it with ``async for`` when ``as_completed=True``."""
        return AsyncOutcomes(self._opener(items, how), as_completed=as_completed)
