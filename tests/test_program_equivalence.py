"""Stored programs, histories and examples: what the model is asked is what plain DSPy asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

import dspex
from tests.equivalence import ADAPTERS
from tests.provider import Provider, fields

DEMOS = [
    {"question": "What is 1 + 1?", "answer": "2"},
    {"question": "Capital of France?", "answer": "Paris"},
]


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    """A provider on this machine."""
    with Provider() as opened:
        yield opened


@pytest.fixture(scope="module")
def runtime() -> Iterator[dspex.Runtime]:
    """Real workers."""
    with dspex.Runtime(pools={"general": dspex.PoolOptions(workers=1)}) as opened:
        yield opened


def sent(provider: Provider) -> list[bytes]:
    """The bodies since the last look."""
    bodies = [request.post.data for request in provider.requests]
    provider.requests.clear()
    return bodies


def plainly(provider: Provider, adapter: str, run: Callable[[], Any]) -> list[bytes]:
    """What plain DSPy asks."""
    lm = dspy.LM(
        "openai/x", api_base=provider.base_url, api_key="k", engine="lm15", cache=False, num_retries=0
    )

    async def asked() -> None:
        with dspy.context(lm=lm, adapter=ADAPTERS[adapter](lm)):
            await run()

    asyncio.run(asked())
    return sent(provider)


def lm_of(provider: Provider, adapter: str = "chat") -> dspex.LM:
    """The same model in dspex."""
    return dspex.LM("openai/x", base_url=provider.base_url, api_key="k", adapter=adapter)


def look(tool: str) -> str:
    """Look something up."""
    return tool


def with_demos(module: Any, predictor: Any) -> Callable[[], Any]:
    """A module whose predictor has the examples, to be called."""
    predictor.demos = [dspy.Example(**demo) for demo in DEMOS]
    return lambda: module.acall(question="Why?")


SIGNATURE = dspy.Signature("question -> answer", "Answer in one word.")


def plain_predict() -> Callable[[], Any]:
    module = dspy.Predict(SIGNATURE)
    return with_demos(module, module)


def plain_chain() -> Callable[[], Any]:
    module = dspy.ChainOfThought(SIGNATURE)
    return with_demos(module, module.predict)


def plain_react() -> Callable[[], Any]:
    module = dspy.ReAct(SIGNATURE, tools=[look], max_iters=2)
    return with_demos(module, module.extract.predict)


@pytest.mark.parametrize("adapter", ["chat", "json", "xml"])
@pytest.mark.parametrize(
    ("name", "plain", "more"),
    [
        ("Predict", plain_predict, {}),
        ("ChainOfThought", plain_chain, {}),
        ("ReAct", plain_react, {"tools": [look], "options": {"max_iters": 2}}),
    ],
)
def test_examples_and_instructions(
    provider: Provider,
    runtime: dspex.Runtime,
    adapter: str,
    name: str,
    plain: Callable[[], Callable[[], Any]],
    more: dict[str, Any],
) -> None:
    """If this failed, examples that were found with DSPy would not do here what they did there."""
    provider.reply = lambda _: fields(
        answer="x", reasoning="r", next_thought="t", next_tool_name="finish", next_tool_args={}
    )
    stock = plainly(provider, adapter, plain())
    program = runtime.adapter(lm=lm_of(provider, adapter)).create_program(
        "question -> answer", modules=name, demos=DEMOS, instructions="Answer in one word.", **more
    )
    assert program(question="Why?").answer == "x"
    assert stock
    assert sent(provider) == stock


TALK = [{"message": "My name is Ada.", "reply": "Hello."}, {"message": "I am 36.", "reply": "Noted."}]


@pytest.mark.parametrize("adapter", ["chat", "json", "xml"])
@pytest.mark.parametrize("module", ["Predict", "ChainOfThought"])
def test_the_turns_of_a_session_are_a_history(
    provider: Provider, runtime: dspex.Runtime, adapter: str, module: str
) -> None:
    """If this failed, the model would be told of what was said before in other words than DSPy's."""
    replies = iter([turn["reply"] for turn in TALK] * 2 + ["You are Ada."] * 3)
    asked = runtime.adapter(lm=lm_of(provider, adapter))
    session = asked.session()
    stored = asked.session().create_program("history: dspy.History, message -> reply", modules=module)
    provider.reply = lambda _: fields(reply=next(replies), reasoning="r")
    for turn in TALK:
        session.chat(turn["message"], module=module)
    for turn in TALK:
        stored(turn["message"])
    sent(provider)
    assert session.chat("Who am I?", module=module).reply == "You are Ada."
    ours = sent(provider)
    assert stored("Who am I?").reply == "You are Ada."
    from_program = sent(provider)
    history = dspy.History(messages=[dict(turn) for turn in TALK])
    signature = "history: dspy.History, message -> reply"
    plain = getattr(dspy, module)(signature)
    stock = plainly(provider, adapter, lambda: plain.acall(history=history, message="Who am I?"))
    assert len(stock) == 1
    assert ours == stock
    assert from_program == stock


PICTURE = "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize("adapter", ["chat", "json", "xml"])
def test_pictures_of_a_session_are_a_history(
    provider: Provider, runtime: dspex.Runtime, adapter: str
) -> None:
    """If this failed, the model would be shown pictures of earlier turns in another way than by DSPy."""
    provider.reply = lambda _: fields(answer="A dot.")
    signature = "history: dspy.History, picture: dspy.Image, question -> answer"
    session = runtime.adapter(lm=lm_of(provider, adapter)).session()
    for question in ("What is it?", "And now?"):
        session.chat(question, signature=signature, inputs={"picture": dspex.Image(PICTURE)})
    ours = sent(provider)[-1:]
    turn = {"picture": dspy.Image(PICTURE), "question": "What is it?", "answer": "A dot."}
    history = dspy.History(messages=[turn])
    plain = dspy.Predict(signature)
    stock = plainly(
        provider,
        adapter,
        lambda: plain.acall(history=history, picture=dspy.Image(PICTURE), question="And now?"),
    )
    assert len(stock) == 1
    assert ours == stock


def test_saved_json_is_dspys(provider: Provider, runtime: dspex.Runtime, tmp_path: Path) -> None:
    """If this failed, what is optimized in one could not be used in the other."""
    provider.reply = lambda _: fields(answer="x", reasoning="r")
    adapter = runtime.adapter(lm=lm_of(provider))
    program = adapter.create_program(
        "question -> answer", modules="ChainOfThought", demos=DEMOS, instructions="Answer in one word."
    )
    program.save(tmp_path / "ours.json")
    loaded = dspy.ChainOfThought("question -> answer")
    loaded.load(tmp_path / "ours.json")
    stock = plainly(provider, "chat", lambda: loaded.acall(question="Why?"))
    program("Why?")
    assert sent(provider) == stock

    theirs = dspy.ChainOfThought("question -> answer")
    theirs.predict.signature = theirs.predict.signature.with_instructions("In French.")
    theirs.save(tmp_path / "theirs.json")
    stock = plainly(provider, "chat", lambda: theirs.acall(question="Why?"))
    assert program.load(tmp_path / "theirs.json") == 2
    program("Why?")
    assert sent(provider) == stock
    other = dspy.ChainOfThought("topic, style -> poem")
    other.save(tmp_path / "other.json")
    with pytest.raises(dspex.InvalidOption, match="state"):
        program.load(tmp_path / "other.json")
    assert program.info().versions == [1, 2]
