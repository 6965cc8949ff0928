"""OpenTelemetry: what the spans of a call say, what they belong in, and how they end."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import opentelemetry.semconv._incubating.attributes as conventions
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

import dspex
from dspex.worker.genai import PARAMETERS
from tests.agents import Act, react
from tests.mcp_servers import __file__ as mcp_server
from tests.provider import Provider, echo, fault, fields, sequence
from tests.tracing import Kept, attributes, documented, failed, is_documented, kept

pytestmark = pytest.mark.anyio

SIGNATURE = "question -> answer"
SOURCES = Path(dspex.__file__).parent


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as opened:
        yield opened


KEY = "sk-canary-key"


def opened(provider: Provider, *, content: bool) -> dspex.Runtime:
    retry = dspex.Retry(attempts=2, wait=0.01)
    lm = dspex.LM("openai/gpt-x", api_key=KEY, base_url=provider.base_url, max_tokens=500, retry=retry)
    settings = dspex.Settings(
        file=False, allow_modules=["tests.agent_tools", "tests.programs"], trace_content=content
    )
    return dspex.Runtime(lm, pools={"general": dspex.PoolOptions(workers=1)}, settings=settings)


@pytest.fixture(scope="module")
def runtime(provider: Provider) -> Iterator[dspex.Runtime]:
    with opened(provider, content=False) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def telling(provider: Provider) -> Iterator[dspex.Runtime]:
    """One that tells what was said."""
    with opened(provider, content=True) as runtime:
        yield runtime


@pytest.fixture
def spans() -> Iterator[Kept]:
    with kept() as found:
        yield found
        is_documented(found)


@pytest.fixture
def adapter(provider: Provider, runtime: dspex.Runtime, spans: Kept) -> dspex.DSPyAdapter:
    provider.reply = lambda _: echo()
    provider.requests.clear()
    return runtime.adapter()


def starts_and_ends_within(inner: ReadableSpan, outer: ReadableSpan) -> bool:
    times = (outer.start_time, inner.start_time, inner.end_time, outer.end_time)
    known = [time for time in times if time is not None]
    return len(known) == len(times) and known == sorted(known)


CHAT = "chat gpt-x"
PREDICT: list[Any] = [("module Predict", [(CHAT, [])])]


def test_a_react_call_is_one_trace(
    adapter: dspex.DSPyAdapter, runtime: dspex.Runtime, provider: Provider, spans: Kept
) -> None:
    """If this failed, a trace would lack a step of an agent, or have it at the wrong place or with less."""
    tracer = trace.get_tracer("app")

    def look(place: str) -> str:
        with tracer.start_as_current_span("database"):
            return f"nothing in {place}"

    provider.reply = react([("look", {"place": "Rome"})])
    with tracer.start_as_current_span("request"):
        got = adapter.generate("q", module="ReAct", signature=SIGNATURE, tools=[look])

    agent = [
        *PREDICT,
        ("execute_tool look", [("database", [])]),
        *PREDICT,
        ("execute_tool finish", []),
        ("module ChainOfThought", PREDICT),
    ]
    run = ("run", [("invoke_agent ReAct", agent)])
    assert spans.trees() == [("request", [("call dspy.ReAct", [("queue", []), run])])]
    assert len({span.context.trace_id for span in spans.all if span.context}) == 1

    call, worker = spans.one("call dspy.ReAct"), spans.one("run")
    said = attributes(call)
    assert said.pop("dspex.program")
    assert said == {
        "dspex.request_id": got.request_id,
        "dspex.module": "dspy.ReAct",
        "dspex.pool": "general",
        "dspex.priority": "interactive",
        "dspex.attempts": 1,
        "dspex.lm.requests": 3,
        "dspex.usage.input_tokens": got.usage.prompt_tokens,
        "dspex.usage.output_tokens": got.usage.completion_tokens,
    }
    pid = runtime.stats().pools["general"].workers[0].pid
    assert attributes(worker) == {"dspex.worker": got.worker, "dspex.worker.pid": pid, "dspex.attempt": 1}
    assert attributes(spans.one("queue")) == {}
    assert attributes(spans.one("invoke_agent ReAct")) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "ReAct",
        "dspex.module": "dspy.ReAct",
    }
    predictors = [attributes(span).get("dspex.predictor") for span in spans.named("module Predict")]
    assert predictors == ["react", "react", "extract.predict"]
    assert attributes(spans.one("execute_tool look")) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "look",
        "gen_ai.tool.type": "function",
        "dspex.tool.origin": "caller",
    }
    chats = spans.named(CHAT)
    for number, (chat, request) in enumerate(zip(chats, got.requests, strict=True), 1):
        said = attributes(chat)
        assert isinstance(said.pop("server.port"), int)
        assert said == {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt-x",
            "gen_ai.request.max_tokens": 500,
            "gen_ai.output.type": "text",
            "gen_ai.response.model": request.model.removeprefix("openai/"),
            "gen_ai.response.id": f"chatcmpl-{number}",
            "gen_ai.response.finish_reasons": ("stop",),
            "gen_ai.usage.input_tokens": request.usage.prompt_tokens,
            "gen_ai.usage.output_tokens": request.usage.completion_tokens,
            "server.address": "127.0.0.1",
            "dspex.lm.retries": 0,
        }
        assert chat.kind is SpanKind.CLIENT
        assert starts_and_ends_within(chat, worker)
    assert starts_and_ends_within(worker, call)
    assert starts_and_ends_within(spans.one("queue"), call)
    assert all(failed(span) is None for span in spans.all)
    assert all(span.kind is SpanKind.INTERNAL for span in spans.all if span not in chats)


def test_names_are_those_of_the_conventions(
    adapter: dspex.DSPyAdapter, provider: Provider, spans: Kept
) -> None:
    """If this failed, a tool that reads traces of language models would not find what it looks for."""
    provider.reply = react([("pid", {})])
    adapter.generate("q", module="ReAct", signature=SIGNATURE, tools=["tests.agent_tools:pid"])
    known = set()
    for room in ("gen_ai", "server", "error"):
        module = __import__(f"{conventions.__name__}.{room}_attributes", fromlist=[""])
        known |= {value for value in vars(module).values() if isinstance(value, str)}
    said = {name for span in spans.all for name in attributes(span)}
    assert {name for name in said if not name.startswith("dspex.")} <= known


def test_what_was_said_is_told_only_when_it_is_asked_for(
    adapter: dspex.DSPyAdapter, telling: dspex.Runtime, provider: Provider, spans: Kept
) -> None:
    """If this failed, prompts would be in traces of those who did not want them, or of nobody."""

    def look(place: str) -> dict[str, str]:
        return {"found": f"sesame in {place}"}

    def ask(adapter: dspex.DSPyAdapter) -> str:
        spans.clear()
        provider.reply = react([("look", {"place": "canary Rome"})])
        adapter.generate("canary q", module="ReAct", signature=SIGNATURE, tools=[look])
        return repr([(span.name, attributes(span), span.events, span.status) for span in spans.all])

    said = ask(adapter)
    assert "execute_tool look" in said
    assert not [word for word in ("canary", "sesame", "Rome") if word in said]

    said = ask(telling.adapter())
    assert KEY not in said
    tool, agent = attributes(spans.one("execute_tool look")), attributes(spans.one("invoke_agent ReAct"))
    assert json.loads(tool["gen_ai.tool.call.arguments"]) == {"place": "canary Rome"}
    assert json.loads(tool["gen_ai.tool.call.result"]) == {"found": "sesame in canary Rome"}
    assert json.loads(agent["dspex.inputs"]) == {"question": "canary q"}
    assert json.loads(agent["dspex.outputs"])["answer"] == "done canary q"
    chat = attributes(spans.named(CHAT)[-1])
    assert json.loads(chat["gen_ai.system_instructions"])[0]["type"] == "text"
    assert "canary q" in json.loads(chat["gen_ai.input.messages"])[0]["parts"][0]["content"]
    [reply] = json.loads(chat["gen_ai.output.messages"])
    assert (reply["role"], reply["finish_reason"]) == ("assistant", "stop")
    assert "done canary q" in reply["parts"][0]["content"]


def test_retries_are_told_at_their_request(
    adapter: dspex.DSPyAdapter, provider: Provider, spans: Kept
) -> None:
    """If this failed, a slow request would not show that its provider had failed before."""
    provider.reply = sequence(fault(503), fields(answer="a"))
    adapter.generate("q", signature=SIGNATURE)
    chat = spans.one(CHAT)
    assert attributes(chat)["dspex.lm.retries"] == 1
    [event] = chat.events
    assert (event.name, (event.attributes or {})["error.type"]) == ("dspex.retry", "lm_unavailable")
    assert failed(chat) is None


def test_errors_are_told_where_they_were_and_above(
    adapter: dspex.DSPyAdapter, provider: Provider, spans: Kept
) -> None:
    """If this failed, a call that failed would look in a trace as if it had gone well."""
    provider.reply = lambda _: fault(401)
    with pytest.raises(dspex.LMAuth):
        adapter.generate("q", signature=SIGNATURE)
    names = ("call dspy.Predict", "run", "module Predict", CHAT)
    assert [failed(spans.one(name)) for name in names] == ["lm_auth"] * 4
    assert failed(spans.one("queue")) is None


def test_a_call_that_is_refused_has_a_span(adapter: dspex.DSPyAdapter, spans: Kept) -> None:
    """If this failed, calls that a service refuses would be missing in its traces."""
    with pytest.raises(dspex.InvalidInput):
        adapter.generate(signature="a, b -> c", inputs={"a": "x", "d": "y"})
    assert spans.trees() == [("call dspy.Predict", [])]
    assert failed(spans.one("call dspy.Predict")) == "invalid_input"


def test_a_tool_that_fails_says_with_what(
    adapter: dspex.DSPyAdapter, provider: Provider, spans: Kept
) -> None:
    """If this failed, one would have to guess which tool of an agent went wrong."""

    def broken(text: str) -> str:
        raise LookupError(text)

    def strict(number: int) -> int:
        return number

    tools = [
        broken,
        dspex.Tool(strict, approve=lambda _: dspex.Deny("no")),
        dspex.Tool("tests.agent_tools:broken", name="other"),
    ]
    acts: list[Act] = [
        ("broken", {"text": "x"}),
        ("broken", {"wrong": 1}),
        ("strict", {"number": 1}),
        ("other", {}),
    ]
    provider.reply = react(acts)
    adapter.generate("q", module="ReAct", signature=SIGNATURE, tools=tools)
    assert [failed(span) for span in spans.named("execute_tool broken")] == ["LookupError", "tool_error"]
    assert attributes(spans.one("execute_tool strict"))["dspex.tool.approval"] == "denied"
    other = spans.one("execute_tool other")
    assert (failed(other), attributes(other)["dspex.tool.origin"]) == ("LookupError", "worker")


def test_tools_of_mcp_servers_are_told_apart(
    adapter: dspex.DSPyAdapter, provider: Provider, spans: Kept
) -> None:
    """If this failed, a trace would not say that a tool was another program's."""
    server = dspex.MCPServer(command=[sys.executable, mcp_server], tools=["add"])
    provider.reply = react([("add", {"a": 1})])
    adapter.generate("q", module="ReAct", signature=SIGNATURE, tools=[server])
    said = attributes(spans.one("execute_tool add"))
    assert (said["dspex.tool.origin"], said["gen_ai.tool.type"]) == ("mcp", "extension")


def test_code_that_a_model_wrote_has_a_span_in_its_sandbox(
    adapter: dspex.DSPyAdapter, provider: Provider, spans: Kept
) -> None:
    """If this failed, the time that generated code takes would be missing in a trace."""
    good = "```python\nSUBMIT({'answer': 45})\n```"
    codes = [fields(reasoning="r", generated_code=code) for code in ("1 / 0", good)]
    provider.reply = sequence(*codes, fields(reasoning="so", answer="45"))
    adapter.generate("q", module="ProgramOfThought", signature=SIGNATURE, sandbox="monty")
    first, second = spans.named("sandbox")
    assert failed(first) == "sandbox_error"
    assert attributes(second) == {
        "dspex.sandbox.asked": "monty",
        "dspex.sandbox.kind": "monty",
        "dspex.sandbox.code_size": len("SUBMIT({'answer': 45})"),
    }


def test_programs_of_stages_are_workflows(adapter: dspex.DSPyAdapter, spans: Kept) -> None:
    """If this failed, the stages of one program would be calls that have nothing to do with each other."""
    program = adapter.create_program(SIGNATURE, modules=["dspy.ChainOfThought", "dspy.Predict"])
    spans.clear()
    program(question="q")
    [(name, stages)] = spans.trees()
    assert name == "invoke_workflow dspy.ChainOfThought, dspy.Predict"
    assert [name for name, _ in stages] == ["call dspy.ChainOfThought", "call dspy.Predict"]
    first, second = (spans.one(name) for name, _ in stages)
    assert [attributes(span)["dspex.stage"] for span in (first, second)] == [1, 2]
    assert (first.end_time or 0) <= (second.start_time or 0)
    assert attributes(spans.one(name))["gen_ai.operation.name"] == "invoke_workflow"


def test_turns_tell_their_conversation(adapter: dspex.DSPyAdapter, spans: Kept) -> None:
    """If this failed, the calls of one conversation could not be found together."""
    adapter.session("chat-7").chat("hello")
    assert attributes(spans.one("call dspy.Predict"))["gen_ai.conversation.id"] == "chat-7"


async def test_streams_and_batches_are_traced(adapter: dspex.DSPyAdapter, spans: Kept) -> None:
    """If this failed, only calls that wait for their whole answer would be in traces."""
    tracer = trace.get_tracer("app")
    with tracer.start_as_current_span("request"):
        async with adapter.astream("q", signature=SIGNATURE) as stream:
            async for _ in stream:
                pass
        await adapter.abatch(["a", "b"], signature=SIGNATURE)
    [(_, [streamed, (name, items)])] = spans.trees()
    assert streamed == ("call dspy.Predict", [("queue", []), ("run", PREDICT)])
    assert name == "batch"
    assert items == [streamed, streamed]
    assert attributes(spans.one("batch")) == {"dspex.batch.items": 2}
    assert [attributes(span).get("gen_ai.request.stream") for span in spans.named(CHAT)] == [True, None, None]
    first, *others = (attributes(span) for span in spans.named(CHAT))
    assert first["gen_ai.response.time_to_first_chunk"] > 0
    assert not [said for said in others if "gen_ai.response.time_to_first_chunk" in said]


def test_programs_of_the_users_own_are_traced(adapter: dspex.DSPyAdapter, spans: Kept) -> None:
    """If this failed, what a program of somebody's own does would be a blank in its trace."""
    adapter.generate(inputs={"message": "m"}, module="tests.programs:Router")
    [(_, [_, (_, program)])] = spans.trees()
    assert program == [("module Router", [*PREDICT, ("module ChainOfThought", PREDICT)])]
    said = attributes(spans.one("module Router"))
    assert said == {"dspex.module": "tests.programs:Router"}


def test_pictures_are_told_of_and_not_shown(telling: dspex.Runtime, provider: Provider, spans: Kept) -> None:
    """If this failed, a picture would be in a span as megabytes of text."""
    provider.reply = lambda _: fields(order={"item": "tea", "count": 2})
    picture = dspex.Image.from_bytes(b"\x89PNG" * 1000, mime_type="image/png")
    telling.adapter().generate(
        signature="picture: dspy.Image, text -> order: dict[str, Any]",
        inputs={"picture": picture, "text": "x" * 100_000},
    )
    said = attributes(spans.one("module Predict"))
    assert json.loads(said["dspex.outputs"]) == {"order": {"item": "tea", "count": 2}}
    assert json.loads(said["dspex.inputs"])["picture"] == "<Image>"
    asked = attributes(spans.one(CHAT))["gen_ai.input.messages"]
    assert {part["type"] for part in json.loads(asked)[0]["parts"]} == {"text", "image"}
    assert len(asked) < 50_000


def test_a_request_says_what_it_was_asked_with(
    adapter: dspex.DSPyAdapter, provider: Provider, spans: Kept
) -> None:
    """If this failed, a trace would not show why a model answered so, whose call it was or its price."""
    asked = {"temperature": 0.5, "top_p": 0.9, "seed": 3, "frequency_penalty": 0.1, "presence_penalty": 0.2}
    lm = dspex.LM("openai/gpt-4o-mini", base_url=provider.base_url, api_key=KEY, stop=["END"], **asked)  # type: ignore[arg-type]
    got = adapter.generate("q", signature=SIGNATURE, lm=lm, tenant="acme")
    said = attributes(spans.one("chat gpt-4o-mini"))
    assert {name: said[f"gen_ai.request.{name}"] for name in asked} == asked
    assert said["gen_ai.request.stop_sequences"] == ("END",)
    assert said["dspex.lm.cost"] == got.cost
    assert attributes(spans.one("call dspy.Predict"))["dspex.tenant"] == "acme"


def test_every_documented_attribute_exists() -> None:
    """If this failed, the page about traces would promise what no span has."""
    sources = "".join(file.read_text() for file in SOURCES.rglob("*.py"))
    names = {
        name
        for name in documented(0)
        if name.count(".") and name.split(".")[0] in {"gen_ai", "dspex", "server", "error"}
    }
    assert len(names) > 50
    lacking = {name for name in names if f'"{name}"' not in sources}
    assert {name.removeprefix("gen_ai.request.") for name in lacking} <= set(PARAMETERS)
