"""What a call runs: one module, or the stages of a program one after the other."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from dspex.errors import DspexError, InvalidInput
from dspex.lm.profile import LM
from dspex.lm.reference import References
from dspex.program import prompt, stages
from dspex.program.document import Document, StageDocument
from dspex.program.importpath import is_path, name_of
from dspex.program.saved import Saved
from dspex.program.spec import Demos
from dspex.runtime.call import Answer
from dspex.runtime.question import Question
from dspex.runtime.steps import Ask, Build, Find, Steps
from dspex.telemetry.otel import Tracing
from dspex.types import FallenBack, LMReference, LMRequest, Usage
from dspex.wire.values import decode

if TYPE_CHECKING:
    from dspex.runtime.route import Found


@dataclass(frozen=True, slots=True)
class Ran:
    """What a call came to.

    Attributes:
        answers: The answer of each stage, in order.
        modules: The module of each.
        seconds: How long each took.
        recorded: Whether it is written in its session; None without one.
    """

    answers: tuple[Answer, ...]
    modules: tuple[str, ...]
    seconds: tuple[float, ...]
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
        first, *others = (answer.usage for answer in self.answers)
        return sum(others, first)

    @property
    def cost(self) -> float | None:
        """US dollars of all stages; None when the price of a request that was answered is unknown."""
        if len(self.answers) == 1:
            return self.answers[0].cost
        costs = [request.cost for request in self.requests if request.status == "ok"]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if costs and len(known) == len(costs) else None

    @property
    def attempts(self) -> int:
        """To how many workers its stages were given."""
        return sum(answer.done.attempts for answer in self.answers)

    @property
    def fallbacks(self) -> list[FallenBack]:
        """The LMs that did not answer, of all stages."""
        return [one for answer in self.answers for one in answer.done.fallbacks]

    @property
    def model(self) -> str | None:
        """The model that answered last."""
        if self.answers[-1].done.cached:  # what was asked before it has not answered
            return self.answers[-1].done.model
        asked = next((request.model for request in reversed(self.requests) if request.status == "ok"), None)
        return asked or next((answer.done.model for answer in reversed(self.answers)), None)

    @property
    def cached(self) -> bool:
        """Whether all of it came from the cache."""
        return all(answer.done.cached for answer in self.answers)


def single(question: Question, default: LM | str | None) -> Steps[Ran]:
    """Ask one module.

    Args:
        question: The question.
        default: The LM when it names none.
    """
    answer: Answer = yield Ask(question.with_default(default))
    return Ran((answer,), (name_of(question.module),), (answer.total,))


class Stages:
    """A program's stages, to be run.

    Args:
        document: The program.
        tools: The functions among its tools, by name.
        references: Where its LMs are looked up.
        tracing: Whether and how calls are traced.
    """

    def __init__(
        self, document: Document, tools: Mapping[str, Any], references: References, tracing: Tracing
    ) -> None:
        self._document = document
        self._tools = tools
        self._references = references
        self._tracing = tracing

    def run(self, question: Question, default: LM | str | None) -> Steps[Ran]:
        """Run the stages.

        Args:
            question: What is asked: prompt, inputs, deadline, and the LM if the call names one.
            default: The LM of what names none.

        Raises:
            DspexError: What the first stage that failed ended with; of several ``details`` has its number,
                ``stage``, and the LM requests of those before it.
        """
        if len(self._document.stages) == 1:
            return (yield from self._run(question, default))
        name = ", ".join(name_of(stage.module) for stage in self._document.stages)
        with self._tracing.block(
            question.origin,
            f"invoke_workflow {name}",
            {
                "gen_ai.operation.name": "invoke_workflow",
                "gen_ai.workflow.name": name,
                "gen_ai.conversation.id": question.session_id,
                "dspex.request_id": question.request_id,
            },
            question.asked,
        ) as origin:
            return (yield from self._run(replace(question, origin=origin), default))

    def _run(self, question: Question, default: LM | str | None) -> Steps[Ran]:
        document, inputs = self._document, question.inputs
        if document.signature is not None:
            signature, inputs = prompt.fill(document.signature, question.prompt, question.inputs)
            document = msgspec.structs.replace(document, signature=signature)
            question = replace(question, prompt=None)
        answers: list[Answer] = []
        seconds = []
        gave: dict[str, Any] = {}
        for number in range(len(document.stages)):
            begun = time.monotonic()
            before = answers[-1].outputs if answers else {}
            try:
                asked = self._question(question, document, number, default, before)
                if number or document.signature is not None:
                    taken = yield from _taken(asked)
                    asked = replace(asked, inputs=stages.given(taken, inputs or {}, gave, before))
                answer: Answer = yield Ask(asked)
            except DspexError as error:
                if len(document.stages) > 1:
                    _tell_stage(error, number + 1, answers)
                raise
            gave |= answer.outputs
            answers.append(answer)
            seconds.append(time.monotonic() - begun)
        return Ran(tuple(answers), tuple(stage.module for stage in document.stages), tuple(seconds))

    def dump(self) -> Steps[dict[str, Any]]:
        """What DSPy would save of the only stage, as a worker has it."""
        asked = self._question(Question(), self._document, 0, None, {})
        dumped: dict[str, Any] = yield Build(asked, dump=True)
        return dumped

    def _question(
        self,
        question: Question,
        document: Document,
        number: int,
        default: LM | str | None,
        before: Mapping[str, Any],
    ) -> Question:
        stage = document.stages[number]
        lm = question.lm or self._lm(stage.lm) or self._lm(document.lm) or default
        return replace(
            question,
            module=stage.module,
            signature=stages.signature_of(document, number, before),
            options=options_of(stage),
            tools=None if stage.tools is None else self._found(stage.tools),
            sandbox=stage.sandbox,
            lm=lm,
            is_last=number == len(document.stages) - 1,
            stage=number + 1 if len(document.stages) > 1 else 0,
        )

    def _lm(self, stored: LMReference | None) -> LM | str | None:
        return None if stored is None else self._references.found(stored)

    def _found(self, tools: Sequence[str]) -> list[Any]:
        lacking = [tool for tool in tools if not is_path(tool) and tool not in self._tools]
        if lacking:
            raise InvalidInput(
                f"the program's tools {', '.join(lacking)} are functions of the process that made it; give "
                "them again: session.program(id, tools=[...])",
                details={"tools": lacking},
            )
        return [tool if is_path(tool) else self._tools[tool] for tool in tools]


def options_of(stage: StageDocument) -> dict[str, Any]:
    """The options of a stage's module, with its state and its examples."""
    options: dict[str, Any] = decode(stage.options) if stage.options else {}
    if stage.state:
        options["state"] = Saved(stage.state)
    if stage.demos:
        options["demos"] = Demos(stage.demos)
    return options


def _taken(asked: Question) -> Steps[list[str] | None]:
    """The names of the inputs that a stage takes; None of a program of the user's own that takes any."""
    if asked.signature is not None:
        return [field.name for field in asked.signature.inputs]
    found: Found = yield Find(asked)
    assert found.users is not None
    return None if found.users.takes_any else [parameter.name for parameter in found.users.inputs]


def _tell_stage(error: DspexError, number: int, before: Sequence[Answer]) -> None:
    error.details["stage"] = number
    paid = [request for answer in before for request in answer.requests]
    if paid:
        error.details["requests"] = [*msgspec.to_builtins(paid), *error.details.get("requests", [])]
