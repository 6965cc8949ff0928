"""Programs that are made with arguments and have learned something, and ones that hide what went wrong."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
from typing import Any

import dspy

import dspex
from tests import signature_types as types


class Sized(dspy.Module):  # type: ignore[misc]
    """Is made with arguments."""

    def __init__(
        self, size: int, *, since: dt.date | None = None, tags: list[str] | None = None, free: Any = 3
    ) -> None:
        super().__init__()
        self.given = {"size": size, "since": since, "tags": tags, "free": free}

    def forward(self, question: str) -> Any:
        """What it was made with."""
        return dspy.Prediction(question=question, kinds=type(self.given["free"]).__name__, **self.given)


class Open(dspy.Module):  # type: ignore[misc]
    """Takes any argument."""

    def __init__(self, **anything: Any) -> None:
        super().__init__()
        self.given = anything

    def forward(self) -> Any:
        """What it was made with."""
        return dspy.Prediction(given=self.given)


@dspex.module(shared=True, idempotent=True)
class Pupil(dspy.Module):  # type: ignore[misc]
    """Tells what it has learned."""

    def __init__(self, signature: str = "question -> answer") -> None:
        super().__init__()
        self.predict = dspy.Predict(signature)

    async def aforward(self, question: str) -> Any:
        """One request, before and after which it looks at what it has learned."""
        before = self.predict.signature.instructions
        got = await self.predict.acall(question=question)
        after = self.predict.signature.instructions
        return dspy.Prediction(
            answer=got.answer, told=[before, after], demos=len(self.predict.demos), pid=os.getpid()
        )


class Class(dspy.Module):  # type: ignore[misc]
    """Has several predictors."""

    def __init__(self) -> None:
        super().__init__()
        self.plan = dspy.Predict("question -> steps")
        self.answer = dspy.ChainOfThought("question, steps -> answer")

    def forward(self, question: str) -> Any:
        """What it has learned; nobody is asked."""
        plan, answer = self.plan, self.answer.predict
        return dspy.Prediction(
            told=[plan.signature.instructions, answer.signature.instructions],
            prefixes=[field.json_schema_extra["prefix"] for field in answer.signature.fields.values()],
            demos=[len(plan.demos), len(answer.demos)],
            lms=[plan.lm, answer.lm],
            question=question,
        )


class Stubborn(dspy.Module):  # type: ignore[misc]
    """Loads its state in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def load_state(self, state: Any, **_: Any) -> None:
        """A number of its own."""
        self.number = state["number"] + 1

    def forward(self) -> Any:
        """The number."""
        return dspy.Prediction(number=self.number)


class Hiding(dspy.Module):  # type: ignore[misc]
    """Does something with the error of its model."""

    def __init__(self) -> None:
        super().__init__()
        self.predict = dspy.Predict("how -> answer")

    async def aforward(self, how: str) -> Any:
        """Fails as it is told."""
        if how == "group":
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.predict.acall(how=how))
        try:
            return await self.predict.acall(how=how)
        except Exception as error:
            if how == "again":
                raise
            if how == "from":
                raise error from ValueError("while something else was done")
            if how == "other":
                raise dspy.LMServerError("mine") from error
            raise RuntimeError("could not route") from error


class Loud(dspy.ChatAdapter):  # type: ignore[misc]
    """An adapter that says more."""

    def format(self, signature: Any, demos: Any, inputs: Any) -> Any:
        """The same, and a word."""
        messages = super().format(signature, demos, inputs)
        return [{**messages[0], "content": messages[0]["content"] + " LOUD"}, *messages[1:]]


class Needy(dspy.ChatAdapter):  # type: ignore[misc]
    """An adapter that is made with an argument."""

    def __init__(self, volume: int) -> None:
        super().__init__()


def made_here() -> type[dspy.Module]:
    """A class that no import finds."""

    class Inner(dspy.Module):  # type: ignore[misc]
        """Inside."""

        def forward(self) -> Any:
            """Never comes to this."""

    return Inner


#: One whose name is not what it calls itself.
Renamed = type("Original", (Sized,), {"__module__": __name__, "__doc__": "Has another name."})


class Ordering(dspy.Module):  # type: ignore[misc]
    """Uses the classes that its parameters are annotated with.

    Args:
        color: A member of an enum.
    """

    def __init__(self, color: types.Color = types.Color.RED) -> None:
        super().__init__()
        self.color = color

    def forward(
        self, order: types.Order, points: list[types.Point] | None = None, level: types.Level | None = None
    ) -> Any:
        """No request."""
        return dspy.Prediction(
            color=self.color.name,
            total=sum(line.price for line in order.lines),
            xs=[point.x for point in points or ()],
            level=None if level is None else level.name,
            order=order,
        )


class Silent(dspy.Module):  # type: ignore[misc]
    """Has nothing to say."""

    def forward(self) -> Any:
        """No request."""
        return dspy.Prediction()
