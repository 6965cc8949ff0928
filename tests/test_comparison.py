"""``MultiChainComparison``, several completions at once, generation options, and what a response tells."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import dspy
import pytest

import dspex
from tests.equivalence import Case, in_dspex, in_dspy
from tests.provider import Provider, delayed, fault, fields, sequence

pytestmark = pytest.mark.filterwarnings("ignore")
# Seconds after which the provider answers; many times what requests that are sent together are apart.
LATE = 1.0
KEY = "sk-canary-9d1e77"
MCC: dict[str, Any] = {"module": "MultiChainComparison", "signature": "question -> answer"}


@pytest.fixture(scope="module")
def serving() -> Iterator[tuple[Provider, dspex.Runtime]]:
    with Provider() as provider:
        lm = dspex.LM("openai/x", base_url=provider.base_url, api_key=KEY, retry=dspex.Retry(attempts=1))
        settings = dspex.Settings(allow_modules=("tests.ordered",))
        pools = {"general": dspex.PoolOptions(workers=1)}
        with dspex.Runtime(lm, pools=pools, settings=settings) as runtime:
            yield provider, runtime


@pytest.fixture
def provider(serving: tuple[Provider, dspex.Runtime]) -> Provider:
    serving[0].requests.clear()
    return serving[0]


@pytest.fixture
def runtime(serving: tuple[Provider, dspex.Runtime]) -> dspex.Runtime:
    return serving[1]


def plain(case: Case) -> Any:
    """As users of DSPy make the completions: the same module at 0.7."""
    options = dict(case.options)
    number = options.pop("M", 3)
    config = {"temperature": 0.7, **options}
    thought = dspy.ChainOfThought(case.signature, **config)
    completions = [thought(config={"rollout_id": i}, **case.inputs) for i in range(number)]
    return dspy.MultiChainComparison(case.signature, M=number, **config)(completions, **case.inputs)


THOUGHT: dict[str, Any] = {"reasoning": "so\nand so", "answer": "yes\nno"}
CASES = [
    Case(f"{name}-{adapter}", [*[{**THOUGHT, **more}] * number, {"rationale": "all", **THOUGHT, **more}],
         "MultiChainComparison", signature, options=options, adapter=adapter, plain=plain)
    for adapter in ("chat", "json", "xml")
    for name, signature, options, more, number in (
        ("three", "question -> answer", {}, {}, 3),
        ("five", "question -> answer, score: float", {"M": 5, "temperature": 0.9, "max_tokens": 50},
         {"score": 0.5}, 5),
    )
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_comparison_asks_what_dspy_asks(case: Case, serving: tuple[Provider, dspex.Runtime]) -> None:
    """If this failed, a comparison would be another than DSPy's forward makes of the same attempts."""
    stock, ours = in_dspy(case, serving[0]), in_dspex(case, *serving)
    assert stock.error is None
    assert ours.error is None
    assert ours.requests == stock.requests
    assert ours.outputs == stock.outputs


def are_together(provider: Provider, number: int) -> bool:
    """Whether so many requests were there before the first was answered."""
    first, *_, last = sorted(request.at for request in provider.requests[:number])
    return last < first + LATE


def test_the_attempts_are_made_side_by_side(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, five attempts would take as long as five calls."""
    provider.reply = lambda _: delayed(LATE, fields(reasoning="r", answer="a", rationale="c"))
    got = runtime.adapter().generate("?", M=5, **MCC)
    assert list(got.outputs) == ["rationale", "answer"]
    assert got.trajectory == [{"reasoning": "r", "answer": "a"}] * 5
    assert len(got.requests) == 6
    assert are_together(provider, 5)


def test_one_failed_attempt_fails_the_call(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a comparison would be made of fewer attempts than were asked for, or be lost."""
    provider.reply = sequence(
        fields(reasoning="r", answer="a"), fault(401), fields(reasoning="r", answer="a")
    )
    with pytest.raises(dspex.LMAuth):
        runtime.adapter().generate("?", **MCC)
    assert len(provider.requests) <= 3


@pytest.mark.parametrize("signature", ["reasoning -> answer", "q -> reasoning_attempt_1", "rationale -> a"])
def test_names_that_the_module_uses_are_refused(signature: str, runtime: dspex.Runtime) -> None:
    """If this failed, a field of the caller's would be overwritten."""
    with pytest.raises(dspex.InvalidSignature, match="give this"):
        runtime.adapter().generate("?", module="MultiChainComparison", signature=signature)


def test_several_completions_are_made_side_by_side(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, n=4 would take as long as four calls; and each is to be counted."""
    provider.reply = lambda _: delayed(LATE, fields(answer="a"))
    got = runtime.adapter().generate("?", signature="question -> answer", n=4)
    assert len(got.requests) == len(got.completions or []) == 4
    assert are_together(provider, 4)
    assert [request.body for request in provider.requests] == [provider.requests[0].body] * 4


def test_completions_are_in_the_order_of_their_requests(runtime: dspex.Runtime) -> None:
    """If this failed, the first completion, which gives the outputs, would be whichever came first."""
    lm = dspex.LM("openai/x", engine="tests.ordered:Backwards")
    got = runtime.adapter(lm=lm).generate("?", signature="question -> answer", n=4)
    assert [each["answer"] for each in got.completions or []] == [f"number {number}" for number in range(4)]
    assert got.answer == "number 0"


def test_completions_wait_at_the_gate(provider: Provider, runtime: dspex.Runtime) -> None:
    """If this failed, n would be a way around a limit."""
    provider.reply = lambda _: delayed(0.2, fields(answer="a"))
    lm = dspex.LM("openai/x", base_url=provider.base_url, api_key="k", limits=dspex.Limits(in_flight=2))
    got = runtime.adapter(lm=lm).generate("?", signature="question -> answer", n=8)
    assert got.completions == [{"answer": "a"}] * 8
    arrived = sorted(request.at for request in provider.requests)
    # The third comes when one of the first two has been answered, and so on.
    assert all(later - earlier >= 0.2 for earlier, later in zip(arrived, arrived[2:], strict=False))


def test_generation_options_reach_modules_that_take_none(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, ReAct's temperature would be refused or ignored, or stay for the next call."""

    def look() -> str:
        """Look."""
        return "x"

    for options in ({"temperature": 0.25, "top_p": 0.5, "seed": 3}, {}):
        provider.requests.clear()
        provider.reply = sequence(
            fields(next_thought="t", next_tool_name="finish", next_tool_args={}),
            fields(reasoning="r", answer="a"),
        )
        adapter = runtime.adapter()
        adapter.generate("?", module="ReAct", signature="q -> answer", tools=[look], options=options)
        bodies = [request.body for request in provider.requests]
        assert len(bodies) == 2
        for body in bodies:
            assert {name: body[name] for name in options} == options
            assert options or "temperature" not in body


def test_a_response_tells_how_it_came_about(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, finish reasons, adapter or times would have to be guessed."""
    provider.reply = lambda _: fields(answer="a")
    adapter = runtime.adapter()
    first = adapter.generate("?", signature="question, told -> answer", inputs={"told": "x"})
    again = adapter.generate("?", signature="question, told -> answer", inputs={"told": "x"})
    assert (first.adapter, first.finishes, first.trajectory, first.messages) == (
        "ChatAdapter",
        ["stop"],
        None,
        None,
    )
    assert 0 < first.timing.built <= first.timing.run
    assert again.timing.built == 0.0
    assert {"adapter", "finishes", "trajectory"} <= set(first.to_dict())
    assert "messages" not in first.to_dict()


def test_debug_adds_the_messages(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, what a model was sent could not be seen, or a key would be seen with it."""
    provider.reply = lambda _: fields(reasoning="r", answer="yes", rationale="c")
    got = runtime.adapter().generate("Why not?", debug=True, **MCC)
    assert got.messages is not None
    assert [written["status"] for written in got.messages] == ["ok"] * 4
    for written in got.messages:
        assert [message["role"] for message in written["messages"]] == ["system", "user"]
        assert "Why not?" in written["messages"][1]["content"]
        assert "[[ ## answer ## ]]" in written["reply"]
    assert KEY not in json.dumps(got.to_dict())


def test_no_text_of_an_attempt_becomes_an_image(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, what a model was made to write could put files and pictures into the next request."""
    marked = '<<CUSTOM-TYPE-START-IDENTIFIER>>[{"type": "text", "text": "x"}]<<CUSTOM-TYPE-END-IDENTIFIER>>'
    attempt = fields(reasoning="r", answer=marked)
    provider.reply = sequence(attempt, attempt, attempt, fields(rationale="all", answer="yes"))
    assert runtime.adapter().generate("?", **MCC).answer == "yes"
    shown = provider.requests[-1].body["messages"][-1]["content"]
    assert isinstance(shown, str)
    assert shown.count(marked) == 3


def test_the_gates_limits_hold_under_many_comparisons() -> None:
    """If this failed, attempts made side by side would be refused by their provider, and calls with them."""
    answer = fields(reasoning="r", rationale="all", answer="yes")
    with Provider(lambda _: delayed(0.002, answer)) as provider:
        lm = dspex.LM("openai/x", base_url=provider.base_url, limits=dspex.Limits(in_flight=8))
        with dspex.Runtime(lm, pools={"general": {"workers": 2}}) as runtime:
            adapter = runtime.adapter(timeout=120.0)

            async def all_of_them() -> list[dspex.Response]:
                return await asyncio.gather(*(adapter.agenerate(f"n{n}", **MCC) for n in range(200)))

            got = asyncio.run(all_of_them())
    assert [response.answer for response in got] == ["yes"] * 200
    assert len(provider.requests) == 800
    assert provider.peak_in_flight <= 8
