"""A model that acts by a script: which tool it calls in each turn, and when it has its answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from tests.provider import Reply, Request, fields

#: What the model does in a turn: the tool and its arguments; None to finish.
Act = tuple[str, dict[str, Any]] | None
#: Gives that, from the question and the number of the turn, from 0.
Acts = Callable[[str, int], Act]

_TURN = re.compile(r"\[\[ ## tool_name_(\d+) ## \]\]|\"?tool_name_(\d+)\"?|<tool_name_(\d+)>")
_QUESTION = re.compile(r"\[\[ ## question ## \]\]\n(.*?)\n\n", re.DOTALL)


def react(acts: Acts | Sequence[Act], answer: str = "done") -> Callable[[Request], Reply]:
    """The script of a ``ReAct`` whose signature is ``question -> answer``."""

    def chosen(question: str, turn: int) -> Act:
        if callable(acts):
            return acts(question, turn)
        return acts[turn] if turn < len(acts) else None

    def reply(request: Request) -> Reply:
        messages = request.body["messages"]
        asked = messages[-1]["content"]
        question = _QUESTION.search(asked)
        said = question[1] if question else ""
        if "next_tool_name" not in messages[0]["content"]:
            return fields(reasoning="I have seen enough.", answer=f"{answer} {said}".strip())
        numbers = [int(next(filter(None, found))) for found in _TURN.findall(asked)]
        act = chosen(said, max(numbers, default=-1) + 1)
        tool, arguments = ("finish", {}) if act is None else act
        return fields(next_thought=f"I call {tool}.", next_tool_name=tool, next_tool_args=arguments)

    return reply


def observations(request: Request) -> str:
    """What the model was shown of its trajectory."""
    content: str = request.body["messages"][-1]["content"]
    return content
