"""What a call runs: one module, or several one after the other."""

from __future__ import annotations

from dataclasses import dataclass

from dspex.runtime.call import Answer
from dspex.runtime.question import Question
from dspex.runtime.steps import Ask, Steps


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


def single(question: Question) -> Steps[Ran]:
    """Ask one module."""
    answer: Answer = yield Ask(question)
    return Ran((answer,), (question.module,))
