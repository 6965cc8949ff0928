"""An engine that answers at once, so that what is measured is everything but the model."""

from __future__ import annotations

import asyncio
from typing import Any


class Instant:
    """An LM engine as DSPy defines it, with one fixed answer."""

    supported_params = frozenset({"temperature", "max_tokens"})
    answer = "Paris"

    def __init__(self) -> None:
        from dspy import lm15

        self._response = lm15.Response(
            id=None,
            model="instant",
            message=lm15.Message.assistant(
                [lm15.TextPart(f"[[ ## answer ## ]]\n{self.answer}\n\n[[ ## completed ## ]]")]
            ),
            finish_reason="stop",
            usage=lm15.Usage(input_tokens=100, output_tokens=10, total_tokens=110),
        )

    def complete(self, _request: Any) -> Any:
        """The fixed answer."""
        return self._response


class AsyncInstant(Instant):
    """The same, awaited."""

    async def complete(self, _request: Any) -> Any:
        """The fixed answer."""
        return self._response


class Waiting(Instant):
    """An object for an answer, 50 ms later."""

    answer = '{"field_0": []}'

    async def complete(self, _request: Any) -> Any:
        """The fixed answer."""
        await asyncio.sleep(0.05)
        return self._response
