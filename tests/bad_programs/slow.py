"""Takes its time."""

import time
from typing import Any

import dspy

time.sleep(1.5)


class Slow(dspy.Module):  # type: ignore[misc]
    """Fast, once it is there."""

    def forward(self, question: str) -> Any:
        """What it was asked."""
        return dspy.Prediction(answer=question)
