"""Traces where calls come from and where they end badly; and what is traced in workers besides."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

import dspex
from dspex.pool.callbacks import CallbackRoute
from dspex.telemetry.otel import Tracing
from dspex.testing import InProcessRuntime, ScriptedLM
from dspex.wire.messages import Spans
from tests.agents import react
from tests.processes import lines, until
from tests.provider import Provider, echo, hanging
from tests.tracing import Collector, Kept, Tree, attributes, failed, is_documented, kept, provided

pytestmark = pytest.mark.anyio

SIGNATURE = "question -> answer"
GENERAL = {"general": dspex.PoolOptions(workers=1, grace=0.2)}


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as opened:
        yield opened


@pytest.fixture(scope="module")
def runtime(provider: Provider) -> Iterator[dspex.Runtime]:
    lm = dspex.LM("openai/x", base_url=provider.base_url, adapter="tests.deadly:Deadly")
    settings = dspex.Settings(
        file=False, allow_modules=["tests.agent_tools", "tests.deadly", "tests.programs"]
    )
    with dspex.Runtime(lm, pools=GENERAL, settings=settings) as opened:
        yield opened


@pytest.fixture
def spans() -> Iterator[Kept]:
    with kept() as found:
        yield found
        is_documented(found)


@pytest.fixture
def adapter(provider: Provider, runtime: dspex.Runtime) -> dspex.DSPyAdapter:
    provider.reply = lambda _: echo()
    return runtime.adapter()


def names(tree: Tree, depth: int = 1) -> list[Any]:
    """What a tree is called, so many floors down."""
    name, below = tree
    return [name, *(names(one, depth - 1) for one in below if depth)]


# Where calls come from


async def test_the_callers_span_is_the_parent_on_every_way(adapter: dspex.DSPyAdapter, spans: Kept) -> None:
    """If this failed, calls of a web service would be traces of their own, apart from its requests."""
    tracer = trace.get_tracer("app")

    async def awaited(name: str) -> None:
        with tracer.start_as_current_span(name):
            await adapter.agenerate("q", signature=SIGNATURE)

    def called(name: str) -> None:
        with tracer.start_as_current_span(name):
            adapter.generate("q", signature=SIGNATURE)

    thread = threading.Thread(target=called, args=("thread",))
    thread.start()
    await asyncio.gather(awaited("first"), awaited("second"), asyncio.to_thread(called, "to_thread"))
    await asyncio.to_thread(thread.join)
    await adapter.agenerate("q", signature=SIGNATURE)  # of nobody's span: a trace of its own
    call = "call dspy.Predict"
    assert sorted(names(tree) for tree in spans.trees()) == [
        [call, ["queue"], ["run"]],
        *([name, [call]] for name in ("first", "second", "thread", "to_thread")),
    ]


async def test_a_runtime_on_the_callers_loop_is_traced_too(provider: Provider, spans: Kept) -> None:
    """If this failed, a service with `async with Runtime()` would have traces without its calls."""
    provider.reply = lambda _: echo()
    lm = dspex.LM("openai/x", base_url=provider.base_url)
    async with dspex.Runtime(lm, pools=GENERAL) as runtime:
        with trace.get_tracer("app").start_as_current_span("request"):
            await runtime.adapter().agenerate("q", signature=SIGNATURE)
    [tree] = spans.trees()
    assert names(tree, 2) == ["request", ["call dspy.Predict", ["queue"], ["run"]]]


def test_the_bridges_calls_are_traced(
    adapter: dspex.DSPyAdapter, runtime: dspex.Runtime, spans: Kept
) -> None:
    """If this failed, calls by the names of the original would be missing in traces."""
    with trace.get_tracer("app").start_as_current_span("request"):
        runtime.pool("general").execute("run", {"signature": SIGNATURE, "inputs": {"question": "q"}})
    [tree] = spans.trees()
    assert names(tree, 2) == ["request", ["call dspy.Predict", ["queue"], ["run"]]]


def test_a_runtime_without_processes_is_traced_alike(provider: Provider, spans: Kept) -> None:
    """If this failed, tests with `InProcessRuntime` could not look at traces."""
    with (
        ScriptedLM(["a"]) as scripted,
        InProcessRuntime(scripted) as runtime,
        trace.get_tracer("app").start_as_current_span("request"),
    ):
        runtime.adapter().generate("q", signature=SIGNATURE)
    [tree] = spans.trees()
    assert names(tree, 2) == ["request", ["call dspy.Predict", ["queue"], ["run"]]]
    assert len(spans.named("module Predict")) == 1


def test_what_programs_do_in_threads_is_within_them(
    runtime: dspex.Runtime, provider: Provider, spans: Kept
) -> None:
    """If this failed, the requests of `dspy.Parallel` would be beside the program that makes them."""
    provider.reply = lambda _: echo()
    lm = dspex.LM("openai/x", base_url=provider.base_url)
    runtime.adapter(lm=lm).generate("q", module="tests.programs:Nested")
    [(_, [_, (_, programs)])] = spans.trees()
    assert len(programs) == 1
    assert len(spans.named("chat x")) > 1


# Where nobody wants spans


@pytest.mark.parametrize("why", ["no provider", "not sampled", "switched off"])
def test_workers_gather_nothing_where_nobody_wants_it(
    why: str, adapter: dspex.DSPyAdapter, runtime: dspex.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, those who trace nothing, or one call in a thousand, would pay for every call."""
    told: list[Spans] = []
    monkeypatch.setattr(CallbackRoute, "traced", lambda _, said: told.append(said))
    with contextlib.ExitStack() as opened:
        if why == "not sampled":
            opened.enter_context(provided(TracerProvider(sampler=ALWAYS_OFF)))
        elif why == "switched off":
            opened.enter_context(kept())
            monkeypatch.setattr(runtime.core, "tracing", Tracing(False))
        assert adapter.generate("q", signature=SIGNATURE).answer
    assert not told


def test_traces_that_are_asked_for_and_cannot_be_had_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, somebody who asks for traces would wait for them, and not know what to install."""
    for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(dspex.InvalidOption, match="otel") as caught:
        dspex.Runtime(settings=dspex.Settings(file=False, traces=True)).__enter__()
    assert caught.value.details == {"option": "traces", "extra": "otel"}
    assert Tracing(None).tracer() is None  # and it is missed by nobody else


class Faulty(SpanProcessor):
    """Raises, at the begin and at the end of each span or at one of them."""

    def __init__(self, when: str) -> None:
        self._when = when

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if "start" in self._when:
            raise LookupError("start")

    def on_end(self, span: Any) -> None:
        if "end" in self._when:
            raise LookupError("end")


@pytest.mark.parametrize("when", ["start", "end"])
def test_a_processor_that_raises_costs_no_call(
    when: str, adapter: dspex.DSPyAdapter, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    """If this failed, a faulty exporter would fail the calls of a service, or end its supervision."""

    def look() -> str:
        return "something"

    tracers = TracerProvider()
    tracers.add_span_processor(Faulty(when))
    provider.reply = react([("look", {})])
    with provided(tracers):
        for _ in range(2):
            assert adapter.generate("q", module="ReAct", signature=SIGNATURE, tools=[look]).answer
        with adapter.stream("q", module="ReAct", signature=SIGNATURE, tools=[look]) as stream:
            assert list(stream)
        assert [
            outcome.ok for outcome in adapter.batch(["a"], module="ReAct", signature=SIGNATURE, tools=[look])
        ]
    told = [record for record in caplog.records if record.name == "dspex.telemetry"]
    assert len(told) <= 1


# How calls end


def test_a_worker_that_dies_leaves_no_span_open(
    adapter: dspex.DSPyAdapter, spans: Kept, tmp_path: Path
) -> None:
    """If this failed, a call whose worker was lost would be missing in its trace, or the time of that."""
    adapter.generate(f"exit once {tmp_path / 'mark'}", signature=SIGNATURE)
    [tree] = spans.trees()
    assert names(tree) == ["call dspy.Predict", ["queue"], ["run"], ["queue"], ["run"]]
    first, second = sorted(spans.named("run"), key=lambda span: span.start_time or 0)
    assert (failed(first), failed(second)) == ("worker_lost", None)
    assert [attributes(span)["dspex.attempt"] for span in (first, second)] == [1, 2]
    assert failed(spans.one("call dspy.Predict")) is None


def test_the_tool_that_ends_its_worker_is_seen(
    adapter: dspex.DSPyAdapter, provider: Provider, spans: Kept
) -> None:
    """If this failed, a trace would not say what a worker was doing when it died."""
    provider.reply = react([("dies", {})])
    with pytest.raises(dspex.PoolError) as caught:
        adapter.generate("q", module="ReAct", signature=SIGNATURE, tools=["tests.agent_tools:dies"])
    assert {failed(span) for span in spans.named("execute_tool dies")} == {"worker_lost"}
    assert failed(spans.one("call dspy.ReAct")) == caught.value.code
    assert {failed(span) for span in spans.named("chat x")} == {None}


def test_a_call_out_of_time_says_where_it_was(
    adapter: dspex.DSPyAdapter, provider: Provider, spans: Kept
) -> None:
    """If this failed, one would not see in a trace which step of a call had taken too long."""
    provider.reply = lambda _: hanging()
    with pytest.raises(dspex.PythonTimeout):
        adapter.generate("q", signature=SIGNATURE, timeout=0.5)
    call = spans.one("call dspy.Predict")
    assert failed(call) == failed(spans.one("run")) == "python_timeout"
    assert attributes(call)["dspex.timeout.phase"] == "running"
    assert failed(spans.one("chat x"))


def test_a_tool_that_hangs_is_ended_with_its_worker(
    adapter: dspex.DSPyAdapter, provider: Provider, spans: Kept
) -> None:
    """If this failed, what a killed worker had begun would never be in a trace."""
    provider.reply = react([("hangs", {})])
    with pytest.raises(dspex.PythonTimeout):
        adapter.generate(
            "q", module="ReAct", signature=SIGNATURE, tools=["tests.agent_tools:hangs"], timeout=1.0
        )
    assert failed(spans.one("execute_tool hangs")) == "python_timeout"
    assert failed(spans.one("invoke_agent ReAct")) == "python_timeout"


def test_a_call_that_never_began_has_waited(runtime: dspex.Runtime, provider: Provider, spans: Kept) -> None:
    """If this failed, a call that ran out of time in the queue would look as if it had never been."""
    provider.reply = lambda _: hanging()
    slow = dspex.LM("openai/x", base_url=provider.base_url, limits=dspex.Limits(in_flight=1))
    adapter = runtime.adapter(lm=slow)
    with adapter.stream("first", signature=SIGNATURE) as stream:
        next(iter(stream))
        with pytest.raises(dspex.PythonTimeout):
            adapter.generate("second", signature=SIGNATURE, timeout=0.2)
        call = spans.one("call dspy.Predict")
        assert attributes(call)["dspex.timeout.phase"] == "queued"
        waited = [span for span in spans.named("queue") if failed(span)]
        assert [failed(span) for span in waited] == ["python_timeout"]
    assert [failed(span) for span in spans.named("call dspy.Predict")] == ["python_timeout", "cancelled"]


async def test_a_caller_who_leaves_ends_its_spans(
    adapter: dspex.DSPyAdapter, provider: Provider, spans: Kept
) -> None:
    """If this failed, calls whose clients had gone would stay open in traces for ever."""
    provider.reply = lambda _: hanging()
    provider.requests.clear()
    call = asyncio.create_task(adapter.agenerate("q", signature=SIGNATURE))
    await asyncio.to_thread(until, lambda: provider.requests)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.to_thread(until, lambda: spans.named("call dspy.Predict"))
    assert failed(spans.one("call dspy.Predict")) == failed(spans.one("run")) == "cancelled"


# Besides


_OWN = """
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

provider = TracerProvider(resource=Resource({"service.name": "worker"}))
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(ENDPOINT)))
trace.set_tracer_provider(provider)


def measured(text: str) -> str:
    with trace.get_tracer("shop").start_as_current_span("own step"):
        return text.upper()
"""


def test_a_collector_gets_one_trace_of_both_processes(
    provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, an OTLP collector would get spans that it cannot put together."""
    monkeypatch.syspath_prepend(str(tmp_path))
    provider.reply = react([("measured", {"text": "canary"})])
    with Collector() as collector:
        (tmp_path / "own_spans.py").write_text(f"ENDPOINT = {collector.endpoint!r}\n{_OWN}")
        tracers = TracerProvider(resource=Resource({"service.name": "app"}))
        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(collector.endpoint)))
        lm = dspex.LM("openai/x", api_key="sk-canary", base_url=provider.base_url)
        pools = {"general": dspex.PoolOptions(workers=1, preload=["own_spans"])}
        settings = dspex.Settings(file=False, traces=True, allow_modules=["own_spans"])
        with provided(tracers), dspex.Runtime(lm, pools=pools, settings=settings) as runtime:
            tools = ["own_spans:measured"]
            runtime.adapter().generate("canary", module="ReAct", signature=SIGNATURE, tools=tools)
    found = {span.name: (service, span) for service, span in collector.spans}
    assert {service for service, _ in collector.spans} == {"app", "worker"}
    assert len({span.trace_id for _, span in collector.spans}) == 1
    assert found["own step"][0] == "worker"
    assert found["own step"][1].parent_span_id == found["run"][1].span_id
    parents = {name: span.parent_span_id for name, (_, span) in found.items()}
    assert parents["invoke_agent ReAct"] == found["run"][1].span_id
    assert parents["execute_tool measured"] == found["invoke_agent ReAct"][1].span_id
    assert not [body for body in collector.bodies if b"canary" in body or b"CANARY" in body]


_CALLBACK = """
import dspy
from dspy.utils.callback import BaseCallback


class Writes(BaseCallback):
    def on_lm_end(self, call_id, outputs, exception):
        with open(PATH, "a") as file:
            file.write(f"{'failed' if exception else 'ok'}\\n")

    def on_module_start(self, call_id, instance, inputs):
        with open(PATH, "a") as file:
            file.write(f"{type(instance).__name__}\\n")


dspy.configure(callbacks=[Writes()])
"""


def test_dspy_callbacks_of_the_users_own_are_called_in_workers(
    provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, a DSPy callback of somebody's own, or an autologging, would be silent in workers."""
    monkeypatch.syspath_prepend(str(tmp_path))
    told = tmp_path / "told"
    (tmp_path / "own_callbacks.py").write_text(f"PATH = {str(told)!r}\n{_CALLBACK}")
    provider.reply = lambda _: echo()
    pools = {"general": dspex.PoolOptions(workers=1, preload=["own_callbacks"])}
    lm = dspex.LM("openai/x", base_url=provider.base_url)
    with dspex.Runtime(lm, pools=pools) as runtime:
        adapter = runtime.adapter()
        adapter.generate("q", signature=SIGNATURE)
        with kept() as spans, adapter.stream("q", module="ChainOfThought", signature=SIGNATURE) as stream:
            assert list(stream)
            assert spans.named("chat x")  # both are told, each in its own way
    assert lines(told) == ["Predict", "ok", "ChainOfThought", "Predict", "ok"]


def test_settings_name_traces(tmp_path: Path) -> None:
    """If this failed, traces could not be had by a settings file or the environment."""
    (tmp_path / "dspex.toml").write_text("traces = false\ntrace_content = true\n")
    settings = dspex.Settings(file=tmp_path / "dspex.toml")
    assert (settings.traces, settings.trace_content) == (False, True)
    assert json.loads(json.dumps(settings.to_dict()))["traces"] is False
    with pytest.raises(dspex.InvalidOption, match="traces"):
        dspex.Settings(traces="yes", file=False)  # type: ignore[arg-type]
