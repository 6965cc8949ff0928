"""What becomes of agents whose tools fail, hang, or lose their worker."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

import dspex
from dspex.runtime.functions import Threads
from tests.agent_scene import SIGNATURE, Asks, Desk, ask, provider, runtime, serving, statuses
from tests.agents import Act, observations, react
from tests.processes import until
from tests.provider import Provider, Reply, Request, fault, fields

__all__ = ["ask", "provider", "runtime", "serving"]  # fixtures, which the tests of this file have


# What goes wrong


def test_an_exception_is_for_the_model_to_read(ask: Asks, provider: Provider) -> None:
    """If this failed, an agent could not learn from a failure, or would read of machinery instead."""

    def inner(key: str) -> str:
        raise KeyError(key)

    def outer(key: str) -> str:
        try:
            return inner(key)
        except KeyError as error:
            raise ValueError(f"no {key} here") from error

    got = ask([("outer", {"key": "tea"}), ("outer", {"keys": 1}), ("outer", {"key": 7})], [outer])
    shown = observations(provider.requests[-1])
    assert "Execution error in outer: \nTraceback (most recent call last):\n" in shown
    assert "in inner\n    raise KeyError(key)\nKeyError: 'tea'" in shown
    assert shown.count('File "') == 3
    assert "ValueError: no tea here" in shown
    assert "ValueError: Arg keys is not in the tool's args." in shown
    assert "ValueError: Arg key is invalid: 7 is not of type 'string'" in shown
    assert "src/dspex" not in shown
    assert "site-packages" not in shown
    assert statuses(got) == [("outer", "error")] * 3
    assert got.tool_calls[0].error == "the tool outer failed: ValueError: no tea here"


def test_a_result_that_cannot_be_sent_is_told_as_such(ask: Asks, provider: Provider) -> None:
    """If this failed, an object without a form for the wire would end the call, or come as its address."""

    def socket() -> Any:
        return {"lock": threading.Lock()}

    def huge() -> str:
        return "x" * (2**23 + 1)

    got = ask([("socket", {}), ("huge", {})], [socket, huge])
    first, second = (called.error or "" for called in got.tool_calls)
    assert "what the tool socket returned.lock: cannot be sent: it is a `_thread.lock`" in first
    assert "over the limit of 8,388,608" in second
    assert "cannot be sent" in observations(provider.requests[-1])


def test_a_large_result_arrives(ask: Asks) -> None:
    """If this failed, a tool that reads a document could not give it."""

    def read() -> str:
        return "é" * 500_000

    got = ask([("read", {})], [read])
    assert got.trajectory is not None
    assert got.trajectory["observation_0"] == "é" * 500_000


def test_a_fatal_tool_ends_the_call_and_stops_the_others(ask: Asks, provider: Provider) -> None:
    """If this failed, an agent would go on after a failure that its owner has called final."""

    def pay() -> None:
        raise PermissionError("the card was refused")

    with pytest.raises(dspex.ToolError, match="pay failed: PermissionError: the card was refused") as caught:
        ask([("pay", {})], [dspex.Tool(pay, fatal=True)])
    details = caught.value.details
    assert (details["tool"], details["type"], details["message"]) == (
        "pay",
        "PermissionError",
        "the card was refused",
    )
    assert details["tool_calls"][0]["status"] == "error"
    assert len(provider.requests) == 1


def test_what_is_no_exception_ends_the_call(ask: Asks) -> None:
    """If this failed, a tool that wants the process to end would be taken for one that looked up nothing."""

    def leaves() -> None:
        raise SystemExit(3)

    async def aleaves() -> None:
        raise asyncio.CancelledError("by itself")

    for tool in (leaves, aleaves):
        with pytest.raises(dspex.ToolError, match=f"{tool.__name__} failed"):
            ask([(tool.__name__, {})], [tool])


@pytest.mark.parametrize(
    "error",
    [
        dspex.LMRateLimited("slow down", retry_after=3.0),
        dspex.BudgetExceeded("too dear"),
        dspex.PythonTimeout("too late"),
    ],
    ids=lambda error: error.code,
)
def test_an_error_of_a_models_keeps_its_code_inside_a_tool(ask: Asks, error: dspex.DspexError) -> None:
    """If this failed, an agent would go on asking when the model behind its tool may not be asked."""

    def nested() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        ask([("nested", {})], [nested])
    assert (caught.value.code, caught.value.retry_after) == (error.code, error.retry_after)


def test_a_refusal_inside_a_tool_is_for_the_model(ask: Asks) -> None:
    """If this failed, a wrong question of a tool's own would end the agent that could correct it."""

    def nested() -> None:
        raise dspex.InvalidInput("no such field")

    assert ask([("nested", {})], [nested]).tool_calls[0].status == "error"


@pytest.mark.parametrize("status", [401, 429, 500])
def test_an_error_of_the_agents_own_model_keeps_its_code(
    ask: Asks, runtime: dspex.Runtime, provider: Provider, status: int
) -> None:
    """If this failed, an agent whose model is refused would answer from nothing."""
    calls: list[int] = []

    def tool() -> int:
        calls.append(1)
        return 1

    acts = react([("tool", {})])

    def reply(request: Request) -> Reply:
        return acts(request) if len(provider.requests) == 1 else fault(status)

    provider.reply = reply
    with pytest.raises(dspex.LMError) as caught:
        runtime.adapter().generate("q", module="ReAct", signature=SIGNATURE, tools=[tool])
    expected = {401: "lm_auth", 429: "lm_rate_limited", 500: "lm_unavailable"}
    assert caught.value.code == expected[status]
    assert calls == [1]


def test_a_wrong_tool_is_a_parse_error(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a model that calls what is not there would crash the agent without a name for it."""
    provider.reply = lambda _: fields(next_thought="?", next_tool_name="nothing", next_tool_args={})
    with pytest.raises(dspex.ParseError):
        runtime.adapter().generate("q", module="ReAct", signature=SIGNATURE, tools=[Desk().method])


# Time


def test_a_deadline_stops_what_can_be_stopped(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a tool that hangs would hold its caller, or a worker would be killed for it."""
    ended, release = threading.Event(), threading.Event()

    async def forever() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()

    def blocks() -> None:
        release.wait(60)

    before = dict(runtime.stats().pools["general"].restarts)
    for tool in (forever, blocks):
        provider.reply = react([(tool.__name__, {})])
        with pytest.raises(dspex.PythonTimeout) as caught:
            runtime.adapter(timeout=0.5).generate("q", module="ReAct", signature=SIGNATURE, tools=[tool])
        assert caught.value.details["killed"] is False
    assert ended.wait(10)
    release.set()
    assert runtime.stats().pools["general"].restarts == before


@pytest.mark.anyio
async def test_a_caller_that_goes_away_takes_its_tools_along(
    runtime: dspex.Runtime, provider: Provider
) -> None:
    """If this failed, tools would go on acting for somebody who has left."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def forever() -> None:
        begun.set()
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()

    provider.reply = react([("forever", {})])
    call = asyncio.create_task(
        runtime.adapter().agenerate("q", module="ReAct", signature=SIGNATURE, tools=[forever])
    )
    await asyncio.wait_for(begun.wait(), 30)
    call.cancel()
    await asyncio.wait_for(ended.wait(), 30)
    with pytest.raises(asyncio.CancelledError):
        await call


def test_hanging_tools_leave_their_neighbours_alone(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a few tools that hang would stop every other tool of the process."""
    release = threading.Event()
    hanging: list[int] = []

    def hangs() -> None:
        hanging.append(1)
        release.wait(120)

    def quick() -> int:
        return 1

    def act(question: str, turn: int) -> Act:
        return (question, {}) if turn == 0 else None

    provider.reply = react(act)

    def run(name: str) -> dspex.Response:
        adapter = runtime.adapter(timeout=60.0)
        return adapter.generate(name, module="ReAct", signature=SIGNATURE, tools=[hangs, quick])

    held = [threading.Thread(target=run, args=("hangs",)) for _ in range(20)]
    for thread in held:
        thread.start()
    until(lambda: len(hanging) == 20, 30)
    assert run("quick").tool_calls[0].status == "ok"
    release.set()
    for thread in held:
        thread.join(60)


# Lost workers


def test_an_agent_runs_again_only_while_it_has_done_nothing(
    runtime: dspex.Runtime, provider: Provider
) -> None:
    """If this failed, a lost worker would have a mail sent twice, or a harmless agent fail."""

    def act(question: str, turn: int) -> Act:
        return ("shoot", {}) if turn == 0 else None

    shots: list[int] = []

    def shoot() -> str:
        if not shots:
            shots.append(1)
            pid = runtime.stats().pools["general"].workers[0].pid
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        return "shot"

    provider.reply = react(act)
    adapter = runtime.adapter(timeout=60.0)
    got = adapter.generate(
        "q", module="ReAct", signature=SIGNATURE, tools=[dspex.Tool(shoot, idempotent=True)]
    )
    assert got.attempts == 2
    assert statuses(got) == [("shoot", "ok")]
    shots.clear()
    with pytest.raises(dspex.WorkerLost, match=r"dspex.Tool\(fn, idempotent=True\)"):
        adapter.generate("q", module="ReAct", signature=SIGNATURE, tools=[shoot])


# Where functions run


def test_threads_that_hang_are_bounded() -> None:
    """If this failed, tools that hang would take threads until the process has none for anything else."""
    threads = Threads(2)
    release, done = threading.Event(), threading.Semaphore(0)

    def hang() -> None:
        release.wait(60)
        done.release()

    threads.run(hang)
    threads.run(hang)
    with pytest.raises(dspex.ToolError, match="2 functions of callers run in this process already"):
        threads.run(hang)
    release.set()
    assert all(done.acquire(timeout=10) for _ in range(2))

    def again() -> bool:
        with contextlib.suppress(dspex.ToolError):
            threads.run(hang)
            return True
        return False

    until(again)
    assert done.acquire(timeout=10)


def test_ctrl_c_does_not_wait_for_a_tool(provider: Provider) -> None:
    """If this failed, a script whose tool hangs could be ended by SIGKILL alone."""
    code = f"""
import time, dspex
def hangs() -> None:
    print("hangs", flush=True)
    time.sleep(600)
lm = dspex.LM("openai/x", base_url={provider.base_url!r}, api_key="k")
with dspex.Runtime(lm, pools={{"general": {{"workers": 1}}}}) as runtime:
    runtime.adapter(timeout=None).generate("q", module="ReAct", signature="question -> answer", tools=[hangs])
"""
    provider.reply = react([("hangs", {})])
    script = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert script.stdout is not None
    assert script.stdout.readline() == "hangs\n"
    script.send_signal(signal.SIGINT)
    _, errors = script.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors


def test_tools_work_without_processes(provider: Provider) -> None:
    """If this failed, tests of a user's agent would need a pool of processes."""
    from dspex.testing import InProcessRuntime

    async def later(a: int) -> int:
        return a

    provider.reply = react([("later", {"a": 3}), ("method", {"a": 3})])
    lm = dspex.LM("openai/x", base_url=provider.base_url, api_key="k")
    with InProcessRuntime(lm, pools={"general": {"workers": 1}}) as runtime:
        got = runtime.adapter().generate(
            "q", module="ReAct", signature=SIGNATURE, tools=[later, Desk().method]
        )
    assert statuses(got) == [("later", "ok"), ("method", "ok")]
