"""dspex asks what DSPy asks, byte for byte, and gives what DSPy gives."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import dspy
import pytest

import dspex
from tests.equivalence import ADAPTERS, KNOWN, UNKNOWN, Case, in_dspex, in_dspy
from tests.provider import Provider

pytestmark = pytest.mark.filterwarnings("ignore")
TYPED = (
    "question, context: list[str], limit: int -> "
    "answer, score: float, tags: list[str], kind: Literal['a', 'b'], note: str | None"
)
GIVEN = {"question": "Why?", "context": ["one", "zwei — 三", "a\nb"], "limit": 3}
ANSWER = {"answer": "yes", "score": 0.5, "tags": ["x", "ÿ"], "kind": "a", "note": None}


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as opened:
        yield opened


@pytest.fixture(scope="module")
def runtime() -> Iterator[dspex.Runtime]:
    with dspex.Runtime(pools={"general": dspex.PoolOptions(workers=1)}) as opened:
        yield opened


def everywhere(name: str, replies: list[Any], **more: Any) -> list[Case]:
    """The case with each adapter, with a model that enforces schemas and with one that does not."""
    return [
        Case(
            f"{name}-{adapter}-{'known' if model is KNOWN else 'unknown'}",
            replies,
            adapter=adapter,
            model=model,
            **more,
        )
        for adapter in ADAPTERS
        if adapter != "two_step"
        for model in (KNOWN, UNKNOWN)
    ]


TURNS = [{"question": "Who?", "answer": "I"}, {"question": "Ü?", "answer": "ü"}]
PLAIN = [
    *everywhere("predict", [{"answer": "yes"}]),
    *everywhere("thought", [{"reasoning": "so", "answer": "yes"}], module="ChainOfThought"),
    *everywhere("typed", [ANSWER], signature=TYPED, inputs=GIVEN),
    *everywhere(
        "typed-thought",
        [{"reasoning": "so", **ANSWER}],
        module="ChainOfThought",
        signature=TYPED,
        inputs=GIVEN,
    ),
    *everywhere("options", [{"answer": "yes"}], options={"temperature": 0.25, "max_tokens": 77}),
    # Side by side, so that which answer is whose is not settled by the order of the requests.
    *everywhere("several", [{"answer": "a"}] * 3, options={"n": 3, "temperature": 0.9}),
    *everywhere("unread", ["no such thing", {"answer": "yes"}]),
    *everywhere("never-read", ["no such thing", "nor this"]),
    *everywhere(
        "history",
        [{"answer": "yes"}],
        signature="question, history: dspy.History -> answer",
        inputs={"question": "And?", "history": TURNS},
        in_dspy={"question": "And?", "history": dspy.History(messages=TURNS)},
    ),
    Case("two-steps", ["It is yes.", {"answer": "yes"}], adapter="two_step"),
    *everywhere(
        "odd-names",
        [{"error": "e", "type": "t", "id": "i"}],
        signature="items, keys -> error, type, id",
        inputs={"items": "1", "keys": "2"},
    ),
    *everywhere("empty", [{"answer": ""}], inputs={"question": ""}),
    *everywhere("control", [{"answer": "a\tb"}], inputs={"question": "a\x00b\x1f\u2028\U0001f600"}),
]


def compared(case: Case) -> Any:
    """How a program of DSPy's makes attempts, and has them compared."""
    attempts = case.options.get("M", 3)
    config = {"temperature": case.options.get("temperature", 0.7)}
    attempt = dspy.ChainOfThought(case.signature, **config)
    made = [attempt(**case.inputs) for _ in range(attempts)]
    return dspy.MultiChainComparison(case.signature, M=attempts, **config)(made, **case.inputs)


ATTEMPT = {"reasoning": "because\nof it", "answer": "yes"}
COMPARED = [
    *everywhere(
        "compared",
        [*[ATTEMPT] * 3, {"rationale": "so", "answer": "yes"}],
        module="MultiChainComparison",
        plain=compared,
    ),
    *everywhere(
        "compared-typed",
        [*[{"reasoning": "because", **ANSWER}] * 5, {"rationale": "so", **ANSWER}],
        module="MultiChainComparison",
        signature=TYPED,
        inputs=GIVEN,
        options={"M": 5, "temperature": 0.4},
        plain=compared,
    ),
]


DEMOS: list[dict[str, Any]] = [
    {"question": "Who?", "answer": "I", "augmented": True, "reasoning": "me"},
    {"question": "What — ÿ?", "answer": "that"},
]


def learned(case: Case) -> Any:
    """A program of DSPy's with what it has learned."""
    module = getattr(dspy, case.module)(case.signature)
    predictor = module if case.module == "Predict" else module.predict
    predictor.demos = [dspy.Example(**demo) for demo in DEMOS]
    predictor.signature = predictor.signature.with_instructions("Answer as the examples do.")
    return module


def saved(module: str) -> Any:
    """What DSPy saves of it."""
    return learned(Case("", [], module=module)).dump_state()


LEARNED = [
    *everywhere(
        "learned",
        [{"answer": "yes"}],
        plain=lambda case: learned(case)(**case.inputs),
        options={"state": saved("Predict")},
    ),
    *everywhere(
        "learned-thought",
        [{"reasoning": "so", "answer": "yes"}],
        module="ChainOfThought",
        plain=lambda case: learned(case)(**case.inputs),
        options={"state": saved("ChainOfThought")},
    ),
    Case(
        "two-steps-thought",
        ["It is yes, since so.", {"reasoning": "so", "answer": "yes"}],
        module="ChainOfThought",
        adapter="two_step",
    ),
    Case("two-steps-typed", ["All of it.", ANSWER], signature=TYPED, inputs=GIVEN, adapter="two_step"),
]


@pytest.mark.parametrize("case", LEARNED, ids=lambda case: case.name)
def test_saved_programs_and_two_steps(case: Case, provider: Provider, runtime: dspex.Runtime) -> None:
    """If this failed, what an optimizer has found would not reach the model, or not in the same words."""
    same(case, provider, runtime)


def adds(a: int, b: int = 1) -> int:
    """Adds two numbers."""
    return a + b


def written(case: Case) -> Any:
    """A module of DSPy's whose model writes code, in the sandbox that dspex has for it."""
    pytest.importorskip("pydantic_monty")
    factory = importlib.import_module("dspex.worker.sandbox.choose").Factory("monty")
    more: dict[str, Any] = {} if case.tools is None else {"tools": [*case.tools]}
    module = getattr(dspy, case.module)(
        case.signature,
        interpreter_factory=factory,
        **case.options,
        **more,
    )
    return module(**case.inputs)


CODE = "```python\nSUBMIT({'answer': 20 + 22})\n```"
WRITTEN = [
    *everywhere(
        "program",
        [{"reasoning": "so", "generated_code": CODE}, {"reasoning": "so", "answer": "42"}],
        module="ProgramOfThought",
        plain=written,
        ours={"sandbox": "monty"},
    ),
    *everywhere(
        "program-mended",
        [
            {"reasoning": "so", "generated_code": "```python\n1 / 0\n```"},
            {"reasoning": "so", "generated_code": CODE},
            {"reasoning": "so", **ANSWER},
        ],
        module="ProgramOfThought",
        signature=TYPED,
        inputs=GIVEN,
        plain=written,
        ours={"sandbox": "monty"},
    ),
    *everywhere(
        "acts",
        [
            {"generated_code": "```python\nprint(adds(40, b=2))\n```", "finished": False},
            {"generated_code": "```python\nprint(adds(41))\n```", "finished": True},
            {"reasoning": "so", "answer": "42"},
        ],
        module="CodeAct",
        tools=(adds,),
        plain=written,
        ours={"sandbox": "monty"},
    ),
    *everywhere(
        "explores",
        [
            {"reasoning": "look", "code": "print(len(question))"},
            {"reasoning": "done", "code": "SUBMIT(answer='42')"},
        ],
        module="RLM",
        plain=written,
        ours={"sandbox": "monty"},
    ),
]


@pytest.mark.parametrize("case", WRITTEN, ids=lambda case: case.name)
def test_modules_that_write_code(case: Case, provider: Provider, runtime: dspex.Runtime) -> None:
    """If this failed, a model would be asked for code in other words than DSPy's."""
    same(case, provider, runtime)


@pytest.mark.parametrize("case", COMPARED, ids=lambda case: case.name)
def test_comparisons(case: Case, provider: Provider, runtime: dspex.Runtime) -> None:
    """If this failed, attempts would be asked for, or compared, in other words than DSPy's."""
    same(case, provider, runtime)


@pytest.mark.parametrize("case", PLAIN, ids=lambda case: case.name)
def test_plain_modules(case: Case, provider: Provider, runtime: dspex.Runtime) -> None:
    """If this failed, a program would behave differently when it is moved to dspex."""
    same(case, provider, runtime)


def same(case: Case, provider: Provider, runtime: dspex.Runtime) -> None:
    stock, ours = in_dspy(case, provider), in_dspex(case, provider, runtime)
    assert stock.requests, "the comparison would compare nothing"
    assert ours.requests == stock.requests
    if stock.error is not None:
        assert ours.error is not None
        return
    assert ours.error is None
    if stock.completions is None:
        assert ours.outputs == stock.outputs
        assert ours.completions is None
    else:
        # Equal requests that are made side by side are answered by the script in any order.
        assert ours.completions is not None
        assert sorted(map(repr, ours.completions)) == sorted(map(repr, stock.completions))
        assert ours.outputs == ours.completions[0]
    if stock.trajectory is not None:
        assert ours.trajectory == stock.trajectory
