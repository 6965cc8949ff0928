"""``BestOfN`` and ``Refine``: what they ask, which attempt they give, and what becomes of failures."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import dspy
import pytest

import dspex
from tests.equivalence import Case, in_dspex, in_dspy
from tests.provider import Provider, fault, fields, sequence

pytestmark = pytest.mark.filterwarnings("ignore")
SIGNATURE = "question -> answer"


def half(args: dict[str, Any], prediction: Any) -> float:
    return 0.9 if prediction.answer == "good" else 0.5 if args["question"] else 0.0


@pytest.fixture(scope="module")
def serving() -> Iterator[tuple[Provider, dspex.Runtime]]:
    settings = dspex.Settings(allow_modules=("tests.rewarding",))
    pools = {"general": dspex.PoolOptions(workers=1)}
    with Provider() as provider:
        lm = dspex.LM("openai/x", base_url=provider.base_url, retry=dspex.Retry(attempts=1))
        with dspex.Runtime(lm, pools=pools, settings=settings) as runtime:
            yield provider, runtime


def answers(provider: Provider, *texts: str) -> None:
    provider.requests.clear()
    provider.reply = sequence(*(fields(reasoning="so", answer=text) for text in texts))


def plain(case: Case) -> Any:
    """The same in DSPy."""
    inner = getattr(dspy, case.options.get("of", "Predict"))(case.signature)
    kind = getattr(dspy, case.module)
    options = {"N": 3, "threshold": 1.0} | {
        name: value for name, value in case.options.items() if name in ("N", "threshold")
    }
    return kind(inner, reward_fn=case.options["reward"], **options)(**case.inputs)


ADVISED: dict[str, Any] = {"discussion": "too long", "advice": {"self": "be short", "predict": "be brief"}}
CASES = [
    Case("best", [{"answer": "a"}, {"answer": "good"}, {"answer": "c"}], "BestOfN", options={"reward": half}),
    Case(
        "best-at-threshold",
        [{"answer": "a"}, {"answer": "good"}],
        "BestOfN",
        options={"reward": half, "threshold": 0.9, "N": 5},
    ),
    Case(
        "best-thought",
        [{"reasoning": "r", "answer": "a"}] * 3,
        "BestOfN",
        options={"reward": half, "of": "ChainOfThought"},
    ),
    *(
        Case(
            f"refine-{adapter}",
            [{"answer": "a"}, ADVISED, {"answer": "b"}, ADVISED, {"answer": "good"}],
            "Refine",
            options={"reward": half},
            adapter=adapter,
        )
        for adapter in ("chat", "json", "xml")
    ),
    Case(
        "refine-thought",
        [{"reasoning": "r", "answer": "a"}, ADVISED, {"reasoning": "r", "answer": "good"}],
        "Refine",
        options={"reward": half, "of": "ChainOfThought", "threshold": 0.9},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_they_ask_what_dspy_asks(case: Case, serving: tuple[Provider, dspex.Runtime]) -> None:
    """If this failed, a program would find another attempt, or be advised otherwise, than in DSPy."""
    provider, runtime = serving
    case = Case(**{**vars(case), "plain": plain})
    stock, ours = in_dspy(case, provider), in_dspex(case, provider, runtime)
    assert stock.error is None
    assert ours.error is None
    assert ours.requests == stock.requests
    assert ours.outputs == stock.outputs


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        (dspex.Reward.exact_match("paris"), "The Paris."),
        (dspex.Reward.exact_match(["rome", "paris"], field="answer"), "The Paris."),
        (dspex.Reward.contains("LYON"), "Not Lyon, surely"),
        ({"kind": "contains", "expected": "LYON"}, "Not Lyon, surely"),
        (dspex.Reward.json_schema({"type": "object", "required": ["city"]}), '{"city": 1}'),
        ("tests.rewarding:short", "The Paris."),
    ],
    ids=["exact", "exact-any", "contains", "contains-json", "schema", "path"],
)
def test_rewards(reward: Any, expected: str, serving: tuple[Provider, dspex.Runtime]) -> None:
    """If this failed, a reward would not choose the attempt that it is for."""
    provider, runtime = serving
    answers(provider, "Not Lyon, surely", "The Paris.", '{"city": 1}')
    got = runtime.adapter().generate(
        "Which city?", module="BestOfN", signature=SIGNATURE, reward=reward, threshold=2
    )
    assert got.answer == expected
    assert [each["outputs"]["answer"] for each in got.trajectory] == [
        "Not Lyon, surely",
        "The Paris.",
        '{"city": 1}',
    ]
    assert max(each["reward"] for each in got.trajectory) == 1.0


@pytest.mark.parametrize(
    "reward", [dspex.Reward.contains("paris"), "tests.rewarding:short"], ids=["in", "path"]
)
def test_a_stored_program_keeps_its_reward(reward: Any, serving: tuple[Provider, dspex.Runtime]) -> None:
    """If this failed, BestOfN could not be stored, or would be stored without its examples."""
    provider, runtime = serving
    provider.requests.clear()
    answers(provider, "Not Lyon, surely", "The Paris.")
    program = runtime.adapter().create_program(
        SIGNATURE,
        modules=["BestOfN"],
        options={"reward": reward, "N": 2},
        demos=[{"question": "Where?", "answer": "Here."}],
    )
    assert program("Which city?").answer == "The Paris."
    roles = [[message["role"] for message in one.body["messages"]] for one in provider.requests]
    assert roles == [["system", "user", "assistant", "user"]] * 2


def test_an_async_reward_is_awaited(serving: tuple[Provider, dspex.Runtime]) -> None:
    """If this failed, a coroutine would be taken for a number."""
    provider, runtime = serving

    async def judged(_: dict[str, Any], prediction: Any) -> bool:
        await asyncio.sleep(0)
        return bool(prediction["answer"] == "b")

    answers(provider, "a", "b", "c")
    got = runtime.adapter().generate("?", module="BestOfN", signature=SIGNATURE, reward=judged)
    assert (got.answer, [each["reward"] for each in got.trajectory]) == ("b", [False, True])


def test_an_attempt_may_fail(serving: tuple[Provider, dspex.Runtime]) -> None:
    """If this failed, one bad answer would lose the good ones, or a failure not be told."""
    provider, runtime = serving
    provider.reply = sequence(fault(500), fields(answer="good"), fault(400))
    got = runtime.adapter().generate("?", module="BestOfN", signature=SIGNATURE, reward=half)
    assert got.answer == "good"
    assert [each.get("reward") for each in got.trajectory] == [None, 0.9, None]
    assert [each.get("error", {}).get("code") for each in got.trajectory] == [
        "lm_unavailable",
        None,
        "lm_invalid_request",
    ]


def test_when_all_fail_the_call_fails_with_the_cause(serving: tuple[Provider, dspex.Runtime]) -> None:
    """If this failed, a dead provider would look like an answer of None, as it does in DSPy."""
    provider, runtime = serving
    for _ in range(3):  # failures of one call are not counted in the next
        provider.requests.clear()
        provider.reply = lambda _: fault(500)
        with pytest.raises(dspex.LMUnavailable):
            runtime.adapter().generate("?", module="BestOfN", signature=SIGNATURE, reward=half)
        assert len(provider.requests) == 3


def test_more_failures_than_allowed_end_the_call(serving: tuple[Provider, dspex.Runtime]) -> None:
    """If this failed, fail_count would not hold."""
    provider, runtime = serving
    provider.requests.clear()
    provider.reply = sequence(fields(answer="a"), fault(500), fault(500), fields(answer="d"))
    with pytest.raises(dspex.LMUnavailable):
        runtime.adapter().generate("?", module="BestOfN", signature=SIGNATURE, reward=half, N=4, fail_count=1)
    assert len(provider.requests) == 3


def test_a_reward_that_fails_says_so(serving: tuple[Provider, dspex.Runtime]) -> None:
    """If this failed, a slip in a reward would be lost, or be taken for the model's."""
    provider, runtime = serving
    provider.reply = lambda _: fields(answer="a")
    adapter = runtime.adapter()
    for reward, said in (
        (lambda args, prediction: 1 / 0, "division by zero"),
        (lambda args, prediction: prediction.anser, "no output 'anser'; there are answer"),
        (lambda args, prediction: "much", "has to return a number, not str"),
    ):
        with pytest.raises(dspex.PythonError, match=said):
            adapter.generate("?", module="BestOfN", signature=SIGNATURE, reward=reward)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "dspy.BestOfN needs reward=...: a function of"),
        ({"reward": 3}, "option 'reward' of dspy.BestOfN takes a function of"),
        ({"reward": lambda args: 1}, "option 'reward' of dspy.BestOfN takes a function of"),
        (
            {"reward": half, "of": "Refine"},
            "dspy.BestOfN cannot be made of dspy.Refine; of one of dspy.Predict",
        ),
        ({"reward": half, "of": "Predikt"}, "option 'of' of dspy.BestOfN: unknown module 'Predikt'"),
        ({"reward": half, "max_iters": 3}, "dspy.BestOfN has no option 'max_iters'"),
        ({"reward": half, "of": "ReAct"}, "dspy.ReAct needs tools="),
        ({"reward": {"kind": "caller"}}, "option 'reward' of dspy.BestOfN takes a function of"),
        (
            {"reward": {"kind": "contains", "text": "x"}},
            "option 'reward' of dspy.BestOfN takes a function of",
        ),
        ({"reward": "exact_match"}, "built in are dspex.Reward.exact_match("),
        ({"reward": dspex.Reward.contains("x", field="no")}, "the reward looks at 'no', which is no output"),
        ({"reward": dspex.Reward.json_schema({"type": "nonsense"})}, "the reward has no valid JSON Schema"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_options_are_refused(
    options: dict[str, Any], said: str, serving: tuple[Provider, dspex.Runtime]
) -> None:
    """If this failed, a slip would cost requests before it is told."""
    provider, runtime = serving
    provider.requests.clear()
    with pytest.raises(dspex.InvalidOption, match=said.replace("(", r"\(")):
        runtime.adapter().generate("?", module="BestOfN", signature=SIGNATURE, options=options)
    assert not provider.requests


def test_a_path_that_is_not_allowed_is_refused(serving: tuple[Provider, dspex.Runtime]) -> None:
    """If this failed, a caller could have any function of the installation run."""
    for path in ("os:getcwd", "tests.programs:x", "tests.rewarding:Any"):
        with pytest.raises((dspex.NotAllowed, dspex.InvalidOption, dspex.ModuleNotFound)):
            serving[1].adapter().generate("?", module="BestOfN", signature=SIGNATURE, reward=path)


def test_the_inner_module_has_its_options_and_its_tools(serving: tuple[Provider, dspex.Runtime]) -> None:
    """If this failed, BestOfN of ReAct would have no tools, or ignore its temperature."""
    provider, runtime = serving
    provider.requests.clear()
    called = []

    def look(place: str) -> str:
        """Look somewhere."""
        called.append(place)
        return "nothing"

    provider.reply = sequence(
        fields(next_thought="t", next_tool_name="look", next_tool_args={"place": "here"}),
        fields(next_thought="t", next_tool_name="finish", next_tool_args={}),
        fields(reasoning="r", answer="good"),
    )
    got = runtime.adapter().generate(
        "?",
        module="BestOfN",
        signature=SIGNATURE,
        reward=half,
        of="ReAct",
        tools=[look],
        threshold=0.9,
        temperature=0.25,
        max_iters=2,
    )
    assert (got.answer, called) == ("good", ["here"])
    assert {request.body["temperature"] for request in provider.requests} == {0.25}
    assert got.trajectory[0]["trajectory"]["observation_0"] == "nothing"
