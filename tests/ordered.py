"""An engine that answers several requests in the opposite order: ``allow_modules=["tests.ordered"]``."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import dspy


class Backwards:
    """Of four requests the last is answered first."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._answered = [asyncio.Event() for _ in range(5)]

    async def complete(self, request: Any) -> Any:
        number = next(self._numbers)
        if number < 3:
            await self._answered[number + 1].wait()
        self._answered[number].set()
        text = f"[[ ## answer ## ]]\nnumber {number}\n\n[[ ## completed ## ]]"
        return dspy.lm15.Response(
            id=None,
            model=request.model,
            message=dspy.lm15.Message.assistant([dspy.lm15.TextPart(text)]),
            finish_reason="stop",
            usage=dspy.lm15.Usage(input_tokens=1, output_tokens=1, total_tokens=2),
        )
