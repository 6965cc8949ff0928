"""What a call runs: one module, or several one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dspex.lm.profile import LM
from dspex.runtime.call import Answer
from dspex.runtime.question import Question
from dspex.runtime.steps import Ask, Steps
from dspex.types import LMRequest, Usage


@dataclass(frozen=True, slots=True)
class Ran:
    """What a call came to.

    Attributes:
        answers: The answer of each stage, in order.
        modules: The module of each.
        recorded: Whether it is written in its session; None without one.
    """

    answers: tuple[Answer, ...]
    modules: tuple[str, ...]
    recorded: bool | None = None

    @property
    def outputs(self) -> dict[str, Any]:
        """Those of the last stage."""
        return self.answers[-1].outputs

    @property
    def requests(self) -> list[LMRequest]:
        """The LM requests of all stages."""
        return [request for answer in self.answers for request in answer.requests]

    @property
    def usage(self) -> Usage:
        """The tokens of all stages."""
        return sum((answer.usage for answer in self.answers), Usage())

    @property
    def cost(self) -> float | None:
        """US dollars of all stages; None when the price of a request that was answered is unknown."""
        costs = [request.cost for request in self.requests if request.status == "ok"]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if costs and len(known) == len(costs) else None

    @property
    def attempts(self) -> int:
        """To how many workers its stages were given."""
        return sum(answer.done.attempts for answer in self.answers)

    @property
    def model(self) -> str | None:
        """The model that answered last."""
        return next((request.model for request in reversed(self.requests) if request.status == "ok"), None)


def single(question: Question, default: LM | str | None) -> Steps[Ran]:
    """Ask one module.

    Args:
        question: The question.
        default: The LM when it names none.
    """
    answer: Answer = yield Ask(question.with_default(default))
    return Ran((answer,), (question.module,))
