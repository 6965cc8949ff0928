"""The same calls on worker processes and in this process: the same outcomes; then what differs by design."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import dspex
from dspex.testing import Drop, Failure, InProcessRuntime, Reply, Request, ScriptedLM, raw

SETTINGS = dspex.Settings(allow_modules=("tests.commands",), max_payload=256 * 1024, max_result=256 * 1024)
QA = "question -> answer"


@pytest.fixture(scope="module", params=[dspex.Runtime, InProcessRuntime])
def runtime(request: pytest.FixtureRequest) -> Iterator[dspex.Runtime]:
    one = {"general": dspex.PoolOptions(workers=1)}
    with request.param(pools=one, settings=SETTINGS) as opened:
        yield opened


@pytest.fixture(scope="module")
def guest() -> Iterator[InProcessRuntime]:
    one = {"general": dspex.PoolOptions(workers=1)}
    with InProcessRuntime(pools=one, settings=SETTINGS) as opened:
        yield opened


def test_an_answer_with_all_that_is_known_of_it(runtime: dspex.Runtime) -> None:
    """If this failed, a test would see other outputs, tokens or prices than production."""
    script = [{"reasoning": "It is known.", "answer": "Paris"}]
    with ScriptedLM(script, model="openai/gpt-5-mini") as lm:
        adapter = runtime.adapter(lm=lm)
        answer = adapter.generate("Capital of France?", module="ChainOfThought", signature=QA)
        lm.assert_exhausted()
    assert answer.outputs == {"reasoning": "It is known.", "answer": "Paris"}
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.completion_tokens > 0
    assert answer.cost is not None
    assert answer.cost > 0
    assert [request.status for request in answer.requests] == ["ok"]
    [request] = lm.requests
    assert request.inputs == {"question": "Capital of France?"}
    assert request.outputs == ("reasoning", "answer")


@pytest.mark.parametrize("adapter", ["chat", "json", "xml"])
def test_every_adapter_gets_its_form(runtime: dspex.Runtime, adapter: str) -> None:
    """If this failed, scripts would have to know how DSPy's adapters write their prompts."""
    outputs = {"mood": "good", "tags": ["ä", "<b> & 日本"], "score": 0.5, "sure": True}
    signature = "text, hint -> mood: Literal['good', 'bad'], tags: list[str], score: float, sure: bool"
    inputs = {"text": "two\nlines, & <tags> 🎉", "hint": "none"}
    with ScriptedLM([outputs], adapter=adapter) as lm:
        answer = runtime.adapter(lm=lm).generate(signature=signature, inputs=inputs)
    assert answer.outputs == outputs
    assert [request.inputs for request in lm.requests] == [inputs]


def test_two_steps_are_a_text_and_its_extraction(runtime: dspex.Runtime) -> None:
    """If this failed, a profile with adapter="two_step" could not be scripted."""
    with ScriptedLM(["Forty-two, I think.", {"number": 42}], adapter="two_step") as lm:
        assert runtime.adapter(lm=lm).generate("?", signature="question -> number: int").number == 42
        lm.assert_exhausted()


def test_an_answer_that_cannot_be_read_is_asked_for_as_json(runtime: dspex.Runtime) -> None:
    """If this failed, the fallback would cost a request in production that no test had seen."""
    with ScriptedLM([raw("no fields"), "Paris"]) as lm:
        answer = runtime.adapter(lm=lm).generate("?", signature=QA)
        lm.assert_exhausted()
    assert answer.answer == "Paris"
    assert len(answer.requests) == 2
    with ScriptedLM([raw("no fields"), raw("nor here")]) as lm, pytest.raises(dspex.ParseError) as caught:
        runtime.adapter(lm=lm).generate("?", signature=QA)
    assert caught.value.details["text"] == "nor here"


def test_a_rate_limit_passes(runtime: dspex.Runtime) -> None:
    """If this failed, a test could not show that a program survives a refusal that passes."""
    with ScriptedLM([Failure(429, retry_after=0.01), Drop(), "Paris"]) as lm:
        answer = runtime.adapter(lm=lm).generate("?", signature=QA)
        lm.assert_exhausted()
    assert answer.answer == "Paris"
    assert answer.requests[0].retries == 2


FAILURES = [
    ([Failure(401)], dspex.LMAuth),
    ([Failure(429, retry_after=0.01)] * 3, dspex.LMRateLimited),
    ([Failure(429, code="insufficient_quota", message="no money left")], dspex.LMBilling),
    ([Failure(400, code="context_length_exceeded")], dspex.LMContextWindow),
    ([Failure(400, message="no such parameter")], dspex.LMInvalidRequest),
    ([Failure(503)] * 3, dspex.LMUnavailable),
    ([Drop(), Drop(delay=0.01), Drop()], dspex.LMUnavailable),
]


@pytest.mark.parametrize(("script", "kind"), FAILURES, ids=lambda value: getattr(value, "code", ""))
def test_failures_have_their_codes(
    runtime: dspex.Runtime, script: list[Failure | Drop], kind: type[dspex.DspexError]
) -> None:
    """If this failed, a test of error handling would meet another error than production does."""
    with ScriptedLM(script) as lm, pytest.raises(kind) as caught:
        runtime.adapter(lm=lm).generate("?", signature=QA)
    lm.assert_exhausted()
    assert caught.value.request_id is not None
    assert [request["status"] for request in caught.value.details["requests"]] == [kind.code]


def test_a_profiles_own_timeout(runtime: dspex.Runtime) -> None:
    """If this failed, a slow provider could not be told from a slow program."""
    with ScriptedLM([Reply("late", delay=30)], timeout=0.05, retry=dspex.Retry(attempts=1)) as lm:
        with pytest.raises(dspex.LMTimeout):
            runtime.adapter(lm=lm).generate("?", signature=QA)


def test_a_deadline_stops_the_request(runtime: dspex.Runtime) -> None:
    """If this failed, a call would run on behind its python_timeout."""
    with ScriptedLM([Reply("late", delay=30)]) as lm:
        with pytest.raises(dspex.PythonTimeout) as caught:
            runtime.adapter(lm=lm, timeout=0.1).generate("?", signature=QA)
        assert caught.value.details["phase"] == "running"
        assert caught.value.details["killed"] is False
        _eventually(lambda: lm.in_flight == 0)


@pytest.mark.anyio
async def test_a_cancelled_call_stops_the_request(runtime: dspex.Runtime) -> None:
    """If this failed, a caller that goes away would leave its work behind."""
    with ScriptedLM([Reply("late", delay=30)]) as lm:
        call = asyncio.create_task(runtime.adapter(lm=lm).agenerate("?", signature=QA))
        await asyncio.to_thread(_eventually, lambda: lm.requests)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.to_thread(_eventually, lambda: lm.in_flight == 0)


def test_a_thread_that_does_not_stop_ends_its_worker(runtime: dspex.Runtime) -> None:
    """If this failed, a call that cannot be cancelled would hold its caller, or the pool."""
    before = runtime.stats().pools["general"].restarts.get("deadline", 0)
    with pytest.raises(dspex.PythonTimeout) as caught:
        runtime.pool().execute("tests.sleep", {"seconds": 2.0}, timeout=0.1)
    assert caught.value.details["killed"] is True
    assert runtime.pool().execute("ping") == "pong"
    assert runtime.stats().pools["general"].restarts["deadline"] == before + 1


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        ({"signature": "question -> answer: itn"}, dspex.InvalidSignature),
        ({"signature": "context, question -> answer"}, dspex.InvalidInput),
        ({"signature": "number: int -> answer", "inputs": {"number": "many"}}, dspex.InvalidInput),
        ({"signature": QA, "inputs": {"question": object()}}, dspex.InvalidInput),
        ({"module": "Predikt"}, dspex.ModuleNotFound),
        ({"max_hops": 3}, dspex.InvalidOption),
        ({"inputs": {"prompt": "x" * 300_000}}, dspex.PayloadTooLarge),
    ],
)
def test_what_is_wrong_is_refused_before_a_model_is_asked(
    runtime: dspex.Runtime, call: dict[str, object], kind: type[dspex.DspexError]
) -> None:
    """If this failed, a mistake would pass the tests and be refused in production."""
    with ScriptedLM(["never"]) as lm:
        arguments: dict[str, object] = {"prompt": None if "inputs" in call else "?", **call}
        with pytest.raises(kind):
            runtime.adapter(lm=lm).generate(**arguments)  # type: ignore[arg-type]
        assert lm.requests == []
        with pytest.raises(AssertionError, match="last 1 of 1"):
            lm.assert_exhausted()


def test_several_completions_are_several_replies(runtime: dspex.Runtime) -> None:
    """If this failed, n completions could not be scripted."""
    with ScriptedLM(["a", "b", "c"]) as lm:
        answer = runtime.adapter(lm=lm).generate("?", signature=QA, n=3, temperature=1.0)
        lm.assert_exhausted()
    assert answer.completions is not None
    assert sorted(completion["answer"] for completion in answer.completions) == ["a", "b", "c"]


@pytest.mark.anyio
async def test_many_at_once_keep_their_answers(runtime: dspex.Runtime) -> None:
    """If this failed, concurrent calls of a test would get each other's replies."""
    together = asyncio.Barrier(64)

    async def reply(request: Request) -> str:
        await together.wait()
        return request.inputs["question"][::-1]

    with ScriptedLM(reply) as lm:
        adapter = runtime.adapter(lm=lm)
        answers = await asyncio.gather(*(adapter.agenerate(f"q{n}", signature=QA) for n in range(64)))
        assert lm.peak_in_flight == 64
    assert [answer.answer for answer in answers] == [f"q{n}"[::-1] for n in range(64)]


def test_a_truncated_answer_says_so(runtime: dspex.Runtime) -> None:
    """If this failed, no test could tell an answer that was cut off from a whole one."""
    usage = dspex.Usage(prompt_tokens=7, completion_tokens=3)
    with ScriptedLM([Reply("Once upon", finish="length", usage=usage)]) as lm:
        answer = runtime.adapter(lm=lm).generate("?", signature=QA)
    assert answer.requests[0].finish == "length"
    assert answer.usage == usage


def test_commands_and_their_errors(runtime: dspex.Runtime) -> None:
    """If this failed, commands would be found, run or fail in another way than in a worker process."""
    pool = runtime.pool()
    assert pool.execute("tests.add", {"a": 2}) == 3
    assert pool.execute("echo", {"ü": [1, b"\x00", None]}) == {"ü": [1, b"\x00", None]}
    assert isinstance(pool.execute("tests.result", {"what": "socket"})["socket"], dspex.Unsendable)
    for how, kind in (("value", "ValueError"), ("exit", "SystemExit"), ("interrupt", "KeyboardInterrupt")):
        for command in ("tests.fail", "tests.afail"):
            with pytest.raises(dspex.PythonError) as caught:
                pool.execute(command, {"how": how})
            assert caught.value.details["type"] == kind
            assert caught.value.details["frames"][-1]["function"] == "_deeper"
    with pytest.raises(dspex.ResultTooLarge):
        pool.execute("tests.result", {"what": "large"})
    with pytest.raises(dspex.NotAllowed, match="allow_modules"):
        pool.execute("os.system", {"command": "true"})


def test_counters_and_queue_are_a_pools(runtime: dspex.Runtime) -> None:
    """If this failed, limits and statistics could not be tested without processes."""
    before = runtime.stats().pools["general"]
    with ScriptedLM(["a", Failure(401)]) as lm:
        adapter = runtime.adapter(lm=lm)
        adapter.generate("?", signature=QA)
        with pytest.raises(dspex.LMAuth):
            adapter.generate("?", signature=QA)
    after = runtime.stats().pools["general"]
    assert after.counters["ok"] == before.counters.get("ok", 0) + 1
    assert after.counters["lm_auth"] == before.counters.get("lm_auth", 0) + 1
    assert after.queued == 0
    assert [worker.in_flight for worker in after.workers] == [0]


@pytest.mark.parametrize("kind", [dspex.Runtime, InProcessRuntime])
def test_a_full_pool_says_so(kind: type[dspex.Runtime]) -> None:
    """If this failed, a test could not show what a caller does when the pool is saturated."""
    small = {"general": dspex.PoolOptions(workers=1, slots=1, max_queue=1, queue_timeout=0.3)}
    gate = threading.Event()

    def reply(_: object) -> str:
        gate.wait(20)
        return "done"

    async def calls(adapter: dspex.DSPyAdapter) -> list[str]:
        running = asyncio.create_task(adapter.agenerate("1", signature=QA))
        await asyncio.to_thread(_eventually, lambda: lm.requests)
        waiting = asyncio.create_task(adapter.agenerate("2", signature=QA))
        await asyncio.sleep(0)
        with pytest.raises(dspex.PoolSaturated) as caught:
            await adapter.agenerate("3", signature=QA)
        assert caught.value.retry_after is not None
        with pytest.raises(dspex.QueueTimeout):
            await waiting
        gate.set()
        return [(await running).answer]

    with ScriptedLM(reply) as lm, kind(lm, pools=small) as runtime:
        assert asyncio.run(calls(runtime.adapter())) == ["done"]


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [dspex.Runtime, InProcessRuntime])
async def test_on_the_callers_loop(kind: type[dspex.Runtime]) -> None:
    """If this failed, async tests would need a thread, or a sync call would hang its own loop."""
    with ScriptedLM(["a", "b"]) as lm:
        async with kind(lm, pools={"general": dspex.PoolOptions(workers=1)}) as runtime:
            assert (await runtime.adapter().agenerate("?")).response == "a"
            with pytest.raises(RuntimeError, match="agenerate"):
                runtime.adapter().generate("?")
            in_thread = await asyncio.to_thread(runtime.adapter().generate, "?")
            assert in_thread.response == "b"


# What only holds without processes


def test_the_workers_are_this_process(guest: InProcessRuntime) -> None:
    """If this failed, a test would start processes after all."""
    assert guest.pool().execute("get_stats")["pid"] == os.getpid()
    assert [worker.pid for worker in guest.stats().pools["general"].workers] == [os.getpid()]


def test_what_programs_print_is_the_tests(guest: InProcessRuntime, capfd: pytest.CaptureFixture[str]) -> None:
    """If this failed, pytest would not show what a program has printed."""
    guest.pool().execute("tests.say", {"text": "hello"})
    assert capfd.readouterr().out == "hello\n"


def test_many_runtimes_at_once_share_nothing() -> None:
    """If this failed, tests that run side by side would meet each other's workers, keys or answers."""

    def one(number: int) -> None:
        with ScriptedLM([f"answer {number}"] * 3) as lm, InProcessRuntime(lm) as runtime:
            answers = [runtime.adapter().generate("?").response for _ in range(3)]
            lm.assert_exhausted()
        found[number] = answers

    found: dict[int, list[str]] = {}
    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [f"answer {number}"] * 3 for number in range(8)}


def test_a_runtime_leaves_nothing_open() -> None:
    """If this failed, a suite of a thousand tests would run out of descriptors."""

    def use() -> None:
        with ScriptedLM(["a"]) as lm, InProcessRuntime(lm) as runtime:
            assert runtime.adapter().generate("?").response == "a"
            runtime.pool().execute("shutdown")

    use()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        use()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


@pytest.mark.anyio
async def test_a_runtime_for_a_whole_suite_keeps_no_connection_to_closed_models(
    guest: InProcessRuntime,
) -> None:
    """If this failed, a suite with one runtime would run out of descriptors in the middle."""

    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_files()
    for _ in range(5):
        with ScriptedLM(["a"] * 8) as lm:
            adapter = guest.adapter(lm=lm)
            await asyncio.gather(*(adapter.agenerate(f"q{n}", signature=QA) for n in range(8)))
    await asyncio.to_thread(_eventually, lambda: open_files() < before + 8)


def test_closing_does_not_wait_for_a_thread_that_runs_on() -> None:
    """If this failed, a stuck program would hang the end of its test."""
    released = threading.Event()
    STUCK.append(released)
    settings = dspex.Settings(allow_modules=(__name__,))
    with InProcessRuntime(settings=settings) as runtime, pytest.raises(dspex.PythonTimeout):
        runtime.pool().execute("testing.stick", timeout=0.05)
    assert not released.is_set()
    released.set()


STUCK: list[threading.Event] = []


@dspex.command("testing.stick")
def stick() -> None:
    """Wait as nothing can interrupt it."""
    STUCK[-1].wait(300)


@pytest.mark.parametrize("kind", [dspex.Runtime, InProcessRuntime])
def test_a_preload_that_fails_is_named(kind: type[dspex.Runtime]) -> None:
    """If this failed, a slip in a preload would show as a start that takes too long."""
    broken = {"general": dspex.PoolOptions(workers=1, preload=("no_such_module_anywhere",))}
    with pytest.raises(dspex.PoolUnhealthy, match="no_such_module_anywhere"), kind(pools=broken):
        pass


def _eventually(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)


def test_a_test_that_names_no_lm_asks_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a test that forgot its scripted LM would be sent to the project's real one."""
    (tmp_path / "dspex.toml").write_text('default_lm = "openai/gpt-5-mini"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSPEX_LM", "openai/gpt-5-mini")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-real")
    with InProcessRuntime(pools={"general": dspex.PoolOptions(workers=1)}) as runtime:
        with pytest.raises(dspex.LMNotConfigured, match="no language model"):
            runtime.adapter().generate("?")
