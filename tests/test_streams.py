"""Streams: typed events, their order and their end, and what leaving one does."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest

import dspex
from tests.channels import until as auntil
from tests.processes import until
from tests.provider import Provider, delayed, echo, fault, fields, hanging, paced, sequence, text

pytestmark = pytest.mark.anyio

_LONG = "One word after the other, " * 8 + 'and "quotes", back\\slashes, <b>, &, é, 😀\n\n  and lines.'
_TWO = "question -> answer, count: int, tags: list[str], note"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as opened:
        yield opened


@pytest.fixture(scope="module")
def runtime(provider: Provider) -> Iterator[dspex.Runtime]:
    lm = dspex.LM("openai/x", base_url=provider.base_url, retry=dspex.Retry(attempts=2, wait=0.01))
    with dspex.Runtime(lm, pools={"general": dspex.PoolOptions(workers=1)}) as opened:
        yield opened


@pytest.fixture
def adapter(provider: Provider, runtime: dspex.Runtime) -> dspex.DSPyAdapter:
    provider.reply = lambda _: echo()
    provider.requests.clear()
    provider.disconnects = 0
    return runtime.adapter()


def joined(events: Sequence[Any], stage: int = 1) -> dict[str, str]:
    found: dict[str, str] = {}
    for event in events:
        if isinstance(event, dspex.Delta) and event.stage == stage:
            found[event.field] = found.get(event.field, "") + event.text
    return found


def final(events: Sequence[Any]) -> dspex.Response:
    assert isinstance(events[-1], dspex.Final)
    return events[-1].response


def idle(runtime: dspex.Runtime) -> bool:
    stats = runtime.stats().pools
    return not any(worker.in_flight for pool in stats.values() for worker in pool.workers)


@pytest.mark.parametrize("form", ["chat", "json", "xml"])
@pytest.mark.parametrize("cut", [1, 3, 1000])
def test_pieces_joined_are_the_outputs(
    provider: Provider, adapter: dspex.DSPyAdapter, form: str, cut: int
) -> None:
    """If this failed, what a user sees while it is written would not be what is stored at its end."""
    provider.reply = lambda _: paced(
        fields(reasoning=_LONG, answer=_LONG[::-1], count=5, tags=["a", "b"], note="x"), cut=cut
    )
    lm = dspex.LM("openai/x", base_url=provider.base_url, adapter=form)
    events = list(adapter.stream("Why?", module="dspy.ChainOfThought", signature=_TWO, lm=lm))
    assert isinstance(events[0], dspex.Started)
    outputs = final(events).outputs
    assert joined(events) == {
        **{name: outputs[name] for name in ("reasoning", "answer", "note")},
        "count": "5",
        "tags": '["a","b"]',
    }
    assert [event for event in events if isinstance(event, dspex.Usage)] == [final(events).usage]
    if cut < 1000:
        assert sum(isinstance(event, dspex.Delta) for event in events) > 50
    assert events[0].request_id == final(events).request_id


@pytest.mark.parametrize("name", ["anthropic/claude-x", "gemini/gemini-x"])
def test_other_providers_stream(provider: Provider, adapter: dspex.DSPyAdapter, name: str) -> None:
    """If this failed, half of the users would get their streams in one piece, or none."""
    provider.reply = lambda _: paced(fields(answer=_LONG, count=5, tags=["a"], note="x"), cut=7)
    address = provider.anthropic_url if name.startswith("anthropic") else provider.gemini_url
    lm = dspex.LM(name, base_url=address, api_key="k")
    events = list(adapter.stream("Why?", signature=_TWO, lm=lm))
    whole = adapter.generate("Why?", signature=_TWO, lm=lm)
    assert final(events).outputs == whole.outputs
    assert final(events).usage == whole.usage
    assert final(events).finishes == whole.finishes
    assert joined(events)["answer"] == whole.answer
    assert sum(isinstance(event, dspex.Delta) for event in events) > 20


async def test_text_alone(provider: Provider, adapter: dspex.DSPyAdapter) -> None:
    """If this failed, a chat window would show the model's reasoning or none of the answer."""
    provider.reply = lambda _: paced(fields(reasoning="Because.", answer=_LONG), cut=3)
    how: dict[str, Any] = {"module": "dspy.ChainOfThought", "signature": "question -> answer"}
    stream = adapter.stream("Why?", **how)
    whole = "".join(await asyncio.to_thread(lambda: list(stream.text_stream())))
    assert stream.response is not None
    assert whole == stream.response.content
    later = adapter.astream("Why?", **how)
    assert "".join([piece async for piece in later.text_stream()]) == whole


async def test_the_three_ways_to_listen_on_a_loop(adapter: dspex.DSPyAdapter) -> None:
    """If this failed, one of the ways in which streams are used elsewhere would not work here."""
    kinds = [type(event).__name__ async for event in adapter.astream("Why?")]
    assert kinds[0] == "Started"
    assert kinds[-1] == "Final"
    async with adapter.astream("Why?") as stream:
        assert [type(event).__name__ async for event in stream] == kinds
    awaited = await adapter.astream("Why?")
    assert [type(event).__name__ async for event in awaited] == kinds


async def test_a_runtime_on_the_loop_itself(provider: Provider) -> None:
    """If this failed, a web server's streams would need a second thread."""
    provider.reply = lambda _: paced(echo(), cut=3)
    async with dspex.Runtime(dspex.LM("openai/x", base_url=provider.base_url)) as runtime:
        adapter = runtime.adapter()
        events = [event async for event in adapter.astream("Why?")]
        assert joined(events) == {"response": final(events).response}
        with pytest.raises(RuntimeError, match="await astream"):
            next(adapter.stream("Why?"))


def test_tools_are_told(provider: Provider, adapter: dspex.DSPyAdapter) -> None:
    """If this failed, nobody would see what an agent does until it has done all of it."""

    def weather(city: str) -> str:
        """The weather."""
        return f"rain in {city}"

    provider.reply = sequence(
        fields(next_thought="Look.", next_tool_name="weather", next_tool_args={"city": "Bern"}),
        fields(next_thought="Done.", next_tool_name="finish", next_tool_args={}),
        paced(fields(reasoning="It rains.", answer=_LONG), cut=3),
    )
    events = list(
        adapter.stream("Rain?", module="dspy.ReAct", signature="question -> answer", tools=[weather])
    )
    assert dspex.ToolCall("weather", {"city": "Bern"}) in events
    assert dspex.ToolResult("weather", "rain in Bern") in events
    assert any(isinstance(event, dspex.Status) for event in events)
    assert joined(events) == {"reasoning": "It rains.", "answer": final(events).answer}
    assert sum(isinstance(event, dspex.Usage) for event in events) == 3


def test_stages_are_told_apart(provider: Provider, adapter: dspex.DSPyAdapter) -> None:
    """If this failed, the text of a draft would be taken for the answer."""
    program = adapter.create_program("question -> answer", modules=["dspy.ChainOfThought", "dspy.Predict"])
    provider.reply = sequence(
        paced(fields(reasoning="draft", answer="first"), cut=3), paced(fields(answer="second"), cut=3)
    )
    stream = program.stream(question="Why?")
    events = list(stream)
    assert joined(events, 1) == {"reasoning": "draft", "answer": "first"}
    assert joined(events, 2) == {"answer": "second"}
    told = [event for event in events if isinstance(event, dspex.Delta) and stream.is_output(event)]
    assert {delta.stage for delta in told} == {2}
    assert final(events).answer == "second"


def test_turns_are_written(adapter: dspex.DSPyAdapter) -> None:
    """If this failed, a conversation that is streamed would be forgotten."""
    session = adapter.session()
    said = "".join(session.stream("Hello.").text_stream())
    assert session.turns()[0].outputs == {"reply": said}
    response = final(list(session.stream("And again?")))
    assert response.recorded is True
    for event in session.stream("Left early"):
        if isinstance(event, dspex.Delta):
            break
    until(lambda: [turn.status for turn in session.turns()][:2] == ["ok", "ok"])
    until(lambda: session.turns()[2].status != "started")


def test_whoever_leaves_stops_the_work(
    provider: Provider, runtime: dspex.Runtime, adapter: dspex.DSPyAdapter
) -> None:
    """If this failed, answers that nobody reads would go on being paid for."""
    provider.reply = lambda _: paced(fields(response=_LONG * 100), cut=3, pause=0.01)

    def dropped() -> None:
        for event in adapter.stream("Why?"):
            if isinstance(event, dspex.Delta):
                break

    def left() -> None:
        with adapter.stream("Why?") as stream:
            next(iter(stream.text_stream()))

    def closed() -> None:
        stream = adapter.stream("Why?")
        next(iter(stream.text_stream()))
        stream.close()
        assert list(stream) == []

    for number, way in enumerate((dropped, left, closed), 1):
        way()
        gc.collect()
        until(lambda: provider.disconnects == number)  # noqa: B023 (it is called here)
        until(lambda: idle(runtime))


async def test_whoever_leaves_a_loop_stops_the_work(
    provider: Provider, runtime: dspex.Runtime, adapter: dspex.DSPyAdapter
) -> None:
    """If this failed, a client that disconnects would leave its call running."""
    provider.reply = lambda _: paced(fields(response=_LONG * 100), cut=3, pause=0.01)

    async def dropped() -> None:
        async for event in adapter.astream("Why?"):
            if isinstance(event, dspex.Delta):
                break

    async def left() -> None:
        async with adapter.astream("Why?") as stream:
            async for _ in stream.text_stream():
                break

    async def cancelled() -> None:
        begun = asyncio.Event()

        async def read() -> None:
            async for _ in adapter.astream("Why?").text_stream():
                begun.set()

        task = asyncio.create_task(read())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    for number, way in enumerate((dropped, left, cancelled), 1):
        await way()
        gc.collect()
        await auntil(lambda: provider.disconnects == number)  # noqa: B023 (it is called here)
        await auntil(lambda: idle(runtime))


def test_many_streams_of_one_worker_do_not_mix(provider: Provider, adapter: dspex.DSPyAdapter) -> None:
    """If this failed, one customer would read another's answer."""
    provider.reply = lambda request: paced(
        fields(response=f"the answer to {request.prompt.user.split('prompt ## ]]')[1].split()[0]}, " * 20),
        cut=3,
    )

    async def one(number: int) -> None:
        events = [event async for event in adapter.astream(f"q{number}")]
        assert joined(events)["response"] == (f"the answer to q{number}, " * 20).strip()

    async def many() -> None:
        await asyncio.gather(*(one(number) for number in range(40)))

    asyncio.run(many())


def test_a_slow_reader_slows_his_own_producer_alone(
    provider: Provider, runtime: dspex.Runtime, adapter: dspex.DSPyAdapter
) -> None:
    """If this failed, one stalled client would fill memory, or hold up every other stream."""
    provider.reply = lambda _: paced(fields(response="word " * 20_000), cut=40)
    slow = adapter.stream("Why?", timeout=None)
    next(iter(slow.text_stream()))
    assert "".join(adapter.stream("Why?").text_stream()).endswith("word")
    waiting = slow._call.feed._events
    assert len(waiting) <= 40, "only so many pieces as were granted are on their way"
    assert not idle(runtime)
    rest = "".join(slow.text_stream())
    assert rest.endswith("word")
    assert slow.response is not None
    assert len(slow.response.response) - len(rest) < 100


@pytest.mark.parametrize("breaks", [0, 40])
def test_a_stream_that_breaks_off(provider: Provider, adapter: dspex.DSPyAdapter, breaks: int) -> None:
    """If this failed, half an answer would be taken for a whole one, or written twice."""
    provider.reply = sequence(
        paced(fields(response=_LONG), cut=3, breaks=breaks), paced(fields(response=_LONG), cut=3)
    )
    events: list[Any] = []
    if breaks:
        with pytest.raises(dspex.LMUnavailable) as raised:
            events.extend(adapter.stream("Why?"))
        assert len(provider.requests) == 1, "after the first piece nothing is tried again"
        so_far = raised.value.details["so_far"]["response"]
        assert so_far
        assert _LONG.startswith(so_far)
    else:
        events.extend(adapter.stream("Why?"))
        assert len(provider.requests) == 2
        assert final(events).requests[0].retries == 1


def test_the_errors_are_those_of_generate(provider: Provider, adapter: dspex.DSPyAdapter) -> None:
    """If this failed, callers would have to handle streams in another way."""
    with pytest.raises(dspex.ModuleNotFound):
        next(adapter.stream("Why?", module="dspy.Predikt"))
    with pytest.raises(dspex.InvalidOption, match="idle_timeout"):
        adapter.stream("Why?", idle_timeout=-1)
    provider.reply = lambda _: fault(401)
    with pytest.raises(dspex.LMAuth) as raised:
        list(adapter.stream("Why?"))
    assert raised.value.request_id
    provider.reply = lambda _: text("[[ ## answer ## ]]\nyes")
    with pytest.raises(dspex.ParseError) as unread:
        list(adapter.stream("Why?", signature="question -> answer, note"))
    assert unread.value.details["so_far"] == {"answer": "yes"}
    assert len(provider.requests) == 2, "what was told is not asked for again in another form"


def test_limits_of_time(provider: Provider, runtime: dspex.Runtime, adapter: dspex.DSPyAdapter) -> None:
    """If this failed, a model that falls silent would be waited for until the deadline, or for ever."""
    provider.reply = lambda _: hanging()
    with pytest.raises(dspex.PythonTimeout) as raised:
        list(adapter.stream("Why?", first_token_timeout=0.2))
    assert raised.value.details["limit"] == "first_token_timeout"
    provider.reply = lambda _: paced(fields(response=_LONG), cut=30, pause=2.0)
    with pytest.raises(dspex.PythonTimeout) as raised:
        list(adapter.stream("Why?", idle_timeout=0.3))
    assert raised.value.details["limit"] == "idle_timeout"
    provider.reply = lambda _: paced(fields(response=_LONG), cut=3, pause=0.05)
    with pytest.raises(dspex.PythonTimeout) as raised:
        list(adapter.stream("Why?", timeout=0.6))
    assert raised.value.details["so_far"]["response"]
    until(lambda: idle(runtime))


def test_waiting_for_the_reader_is_not_idle(provider: Provider, adapter: dspex.DSPyAdapter) -> None:
    """If this failed, a reader who thinks for a while would lose the rest."""
    provider.reply = lambda _: paced(fields(response="word " * 2000), cut=20)
    stream = adapter.stream("Why?", idle_timeout=0.3, timeout=None)
    next(iter(stream.text_stream()))
    threading.Event().wait(1.0)
    assert "".join(stream.text_stream()).endswith("word")


def test_a_runtime_that_closes_ends_its_streams(provider: Provider) -> None:
    """If this failed, a reader would wait for ever when the service stops."""
    provider.reply = lambda _: paced(fields(response=_LONG * 50), cut=3, pause=0.01)
    with dspex.Runtime(dspex.LM("openai/x", base_url=provider.base_url)) as runtime:
        stream = runtime.adapter().stream("Why?")
        next(iter(stream.text_stream()))
    with pytest.raises((dspex.PoolClosed, dspex.Cancelled)):
        list(stream)


def test_a_worker_that_dies(provider: Provider, runtime: dspex.Runtime, adapter: dspex.DSPyAdapter) -> None:
    """If this failed, an answer would begin anew in the middle of itself."""
    provider.reply = lambda _: paced(fields(response=_LONG * 50), cut=3, pause=0.01)
    stream = adapter.stream("Why?")
    next(iter(stream.text_stream()))
    os.kill(runtime.stats().pools["general"].workers[0].pid, signal.SIGKILL)
    with pytest.raises(dspex.WorkerLost) as raised:
        list(stream)
    assert raised.value.details["so_far"]["response"]
    provider.reply = sequence(delayed(30, echo()), paced(echo(), cut=3))
    second = adapter.stream("Why?")
    assert isinstance(next(second), dspex.Started)
    until(lambda: len(provider.requests) == 2)
    os.kill(runtime.stats().pools["general"].workers[0].pid, signal.SIGKILL)
    events = list(second)
    assert isinstance(events[-1], dspex.Final)
    assert any(isinstance(event, dspex.Status) for event in events)


async def test_the_bridge_streams(runtime: dspex.Runtime, adapter: dspex.DSPyAdapter) -> None:
    """If this failed, the original's command would be there in name only."""
    pool = runtime.pool("general")
    asked = {"signature": "question -> answer", "inputs": {"question": "Why?"}}
    events = await asyncio.to_thread(lambda: list(pool.execute("stream", asked)))
    assert events[0]["type"] == "started"
    assert events[-1] == {"type": "final", "outputs": {"answer": "Why?"}}
    coming: AsyncIterator[dict[str, Any]] = await pool.aexecute_in_session("s", "stream", asked)
    assert [event["type"] async for event in coming] == [event["type"] for event in events]
    assert len(await runtime.adapter().session("s").aturns()) == 1


def test_user_modules_and_best_of_n_tell_their_outputs_whole(
    provider: Provider, adapter: dspex.DSPyAdapter
) -> None:
    """If this failed, an attempt that was not chosen would be shown as the answer."""
    provider.reply = lambda request: paced(fields(answer=f"attempt {request.number}"), cut=3)
    events = list(
        adapter.stream(
            "Why?",
            module="dspy.BestOfN",
            signature="question -> answer",
            N=2,
            reward=lambda args, prediction: 0.5,
            threshold=1.0,
        )
    )
    assert joined(events) == final(events).outputs


async def test_a_task_that_is_cancelled_stops_its_streams(
    provider: Provider, adapter: dspex.DSPyAdapter, runtime: dspex.Runtime
) -> None:
    """If this failed, the work would go on for as long as somebody keeps the task, or its error."""
    provider.reply = lambda _: paced(fields(answer="word " * 500), cut=5, pause=0.02)

    async def read() -> None:
        async for _ in adapter.astream("Why?", signature="question -> answer"):
            pass

    tasks = [asyncio.create_task(read()) for _ in range(20)]
    await auntil(lambda: provider.in_flight == 20)
    for task in tasks:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)  # each keeps its frames, and they the streams
    assert all(isinstance(end, asyncio.CancelledError) for end in ends)
    await auntil(lambda: provider.disconnects == 20 and idle(runtime))


async def test_several_may_read_one_stream(provider: Provider, adapter: dspex.DSPyAdapter) -> None:
    """If this failed, all but one of the tasks that read a stream would wait for ever."""
    provider.reply = lambda _: paced(fields(answer="a b c d e f"), cut=2, pause=0.01)
    stream = adapter.astream("Why?", signature="question -> answer")

    async def read() -> list[Any]:
        return [event async for event in stream]

    async with asyncio.timeout(30):
        found = [event for events in await asyncio.gather(read(), read(), read()) for event in events]
    assert sum(isinstance(event, dspex.Final) for event in found) == 1
    assert sum(isinstance(event, dspex.Started) for event in found) == 1

    stream = adapter.astream("Why?", signature="question -> answer")
    reading = asyncio.create_task(read())
    await auntil(lambda: provider.in_flight == 1)
    await stream.aclose()
    async with asyncio.timeout(30):
        await reading  # it ends, as the stream does
