"""What a model's tokens cost, by the map of prices that DSPy has."""

from __future__ import annotations

from typing import Any

import dspy.clients.model_metadata
from dspy.clients.costs import estimate_cost

from dspex.types import LMSpec


class Prices:
    """The prices of one LM.

    Args:
        spec: The LM.
        provider: What DSPy calls its provider; None when nobody knows.
        namespaces: Where the map lists it; None is where DSPy looks by itself.
    """

    def __init__(self, spec: LMSpec, provider: str | None, namespaces: tuple[str, ...] | None = None) -> None:
        self._model = spec.model.partition("/")[2]
        self._provider = provider
        self._namespaces = namespaces
        self._looked = False
        self._rates: tuple[float, float] | None = None

    def of(self, response: Any, request: Any) -> float | None:
        """US dollars for an answer; None when the price is unknown."""
        if self._provider == "local":
            return 0.0  # nobody bills it
        if self._provider is None:
            return None
        cost, _why = estimate_cost(
            response,
            provider=self._provider,
            requested_model=self._model,
            request=request,
            namespaces=self._namespaces,
        )
        return None if cost is None else float(cost)

    def rates(self) -> tuple[float, float] | None:
        """US dollars for one token sent and for one generated; None when nobody knows them."""
        if not self._looked:
            self._rates, self._looked = self._found(), True
        return self._rates

    def _found(self) -> tuple[float, float] | None:
        if self._provider == "local":
            return 0.0, 0.0
        if self._provider is None or self._namespaces == ():
            return None
        metadata = dspy.clients.model_metadata
        info = metadata.model_info(self._provider, self._model, namespaces=self._namespaces)
        if not info:
            return None
        sent = metadata.rate(info, "input_cost_per_token")
        generated = metadata.rate(info, "output_cost_per_token")
        return None if sent is None or generated is None else (sent, generated)
