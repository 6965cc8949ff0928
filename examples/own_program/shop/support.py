"""A program of two steps, and one that runs beside others."""

from __future__ import annotations

from typing import Literal

import dspy

import dspex


class Router(dspy.Module):
    """Finds who is in charge of a message, and drafts a reply."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = dspy.Predict("message -> team: Literal['billing', 'shipping', 'other']")
        self.draft = dspy.ChainOfThought("message, team, tone -> reply")

    def forward(self, message: str, tone: Literal["kind", "short"] = "kind") -> dspy.Prediction:
        """Two requests, one after the other."""
        team = self.classify(message=message).team
        reply = self.draft(message=message, team=team, tone=tone).reply
        return dspy.Prediction(team=team, reply=reply)


@dspex.module(shared=True, idempotent=True)
class Summary(dspy.Module):
    """Sums a message up. It awaits its model and changes nothing, so many may run in one worker."""

    def __init__(self) -> None:
        super().__init__()
        self.predict = dspy.Predict("message -> summary")

    async def aforward(self, message: str) -> dspy.Prediction:
        """One request."""
        return await self.predict.acall(message=message)


class Reply(dspy.Module):
    """Answers in somebody's name."""

    def __init__(self, sender: str) -> None:
        super().__init__()
        self.sender = sender
        self.write = dspy.Predict("message, sender -> reply")

    def forward(self, message: str) -> dspy.Prediction:
        """One request."""
        return self.write(message=message, sender=self.sender)
