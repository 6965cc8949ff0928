"""One program run twice against one scripted provider: by DSPy in this process, and through dspex."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # before DSPy, which would download it

import dspy

import dspex
from tests.provider import Provider, Script, fields, sequence, text

#: A model that DSPy knows to enforce JSON schemas, and one that it does not know.
KNOWN, UNKNOWN = "openai/gpt-4o-mini", "openai/x"


@dataclass(frozen=True)
class Case:
    """A program, what it is given, and what the model answers.

    Attributes:
        name: What the test is called by.
        replies: What the model answers in turn: a text as it is, or outputs by name in the form that the
            prompt asks for; or a script.
        module: Name of the module in both.
        signature: As both take it.
        inputs: For both.
        in_dspy: For DSPy, where it takes an object of its own; None is the same.
        options: Of the module: constructor arguments in DSPy.
        adapter: Name of the adapter.
        model: The model's name.
        tools: For modules that take some.
        plain: Runs the program in DSPy, where that is more than to make the module and to call it.
        ours: What dspex is given besides.
        sync: Whether DSPy's module has no asynchronous form.
    """

    name: str
    replies: list[str | dict[str, Any]] | Script
    module: str = "Predict"
    signature: Any = "question -> answer"
    inputs: Mapping[str, Any] = field(default_factory=lambda: {"question": "Why?"})
    in_dspy: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    adapter: str = "chat"
    model: str = UNKNOWN
    tools: tuple[Any, ...] | None = None
    plain: Callable[[Case], Any] | None = None
    ours: Mapping[str, Any] = field(default_factory=dict)
    sync: bool = False

    def script(self) -> Script:
        """A fresh script that answers this program once."""
        if callable(self.replies):
            return self.replies
        return sequence(*(text(each) if isinstance(each, str) else fields(**each) for each in self.replies))


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        requests: The bodies that the provider received, as bytes.
        outputs: Outputs by name; None when it failed.
        completions: All of them, when there are several.
        trajectory: What the prediction has by that name.
        error: The class of the error's name; None when it answered.
    """

    requests: list[bytes]
    outputs: dict[str, Any] | None = None
    completions: list[dict[str, Any]] | None = None
    trajectory: Any = None
    error: str | None = None


ADAPTERS: dict[str, Callable[[Any], Any]] = {
    "chat": lambda _: dspy.ChatAdapter(),
    "json": lambda _: dspy.JSONAdapter(),
    "xml": lambda _: dspy.XMLAdapter(),
    "two_step": lambda lm: dspy.TwoStepAdapter(extraction_model=lm),
}


def in_dspy(case: Case, provider: Provider) -> Outcome:
    """The program as DSPy runs it in this process."""
    _reset(case, provider)
    lm = dspy.LM(
        case.model, api_base=provider.base_url, api_key="k", engine="lm15", cache=False, num_retries=0
    )

    async def run() -> Any:
        with dspy.context(lm=lm, adapter=ADAPTERS[case.adapter](lm)):
            if case.plain is not None:
                return case.plain(case)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a module may say that it is experimental, or will go
                given = dict(case.options) if case.tools is None else {**case.options, "tools": [*case.tools]}
                module = getattr(dspy, case.module)(case.signature, **given)
            inputs = case.inputs if case.in_dspy is None else case.in_dspy
            return module(**inputs) if case.sync else await module.acall(**inputs)

    outcome = Outcome([])
    try:
        prediction = asyncio.run(run())
    except Exception as error:
        outcome.error = type(error).__name__
    else:
        outcome.outputs = {k: v for k, v in prediction.items() if k != "trajectory"}
        outcome.trajectory = prediction.get("trajectory")
        if prediction.completions is not None and len(prediction.completions) > 1:
            outcome.completions = [dict(each.items()) for each in prediction.completions]
    outcome.requests = [request.post.data for request in provider.requests]
    return outcome


def in_dspex(case: Case, provider: Provider, runtime: dspex.Runtime) -> Outcome:
    """The program through dspex."""
    _reset(case, provider)
    lm = dspex.LM(
        case.model,
        base_url=provider.base_url,
        api_key="k",
        adapter=case.adapter,
        retry=dspex.Retry(attempts=1),
    )
    more: dict[str, Any] = {} if case.tools is None else {"tools": [*case.tools]}
    outcome = Outcome([])
    try:
        response = runtime.adapter(lm=lm).generate(
            module=case.module,
            signature=case.signature,
            inputs=case.inputs,
            options={**case.options},
            **more,
            **case.ours,
        )
    except dspex.DspexError as error:
        outcome.error = error.code
    else:
        outcome.outputs = response.outputs
        outcome.completions = response.completions
        outcome.trajectory = getattr(response, "trajectory", None)
    outcome.requests = [request.post.data for request in provider.requests]
    return outcome


def _reset(case: Case, provider: Provider) -> None:
    provider.requests.clear()
    provider.reply = case.script()
