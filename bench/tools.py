"""(i) The caller's functions: there and back against an echo, and beside twenty that hang."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from typing import Any

import dspex
from bench.measure import Row, fresh, latency, row
from dspex.program.toolspec import look_at
from dspex.runtime.functions import Functions
from dspex.runtime.tools import CallTools, by_name

ROUNDS = 2000


def sync_tool(text: str) -> str:
    """What is called back, in a thread."""
    return text


async def async_tool(text: str) -> str:
    """The same on the caller's loop."""
    return text


async def _called_back(runtime: dspex.Runtime, tool: str, times: int) -> float:
    """Seconds of one call of a function from inside a worker, the median of many in one call."""
    import contextvars

    from dspex.pool.work import Work
    from dspex.wire.payloads import encode_arguments, take

    functions = Functions()
    tools = by_name(look_at([sync_tool, async_tool], "dspy.ReAct"))
    loop = asyncio.get_running_loop()
    calls = CallTools(tools, functions, contextvars.copy_context(), loop, 2**20, "bench")
    args, _ = encode_arguments({"tool": tool, "times": times}, 2**20, where="args")
    assert isinstance(args, bytes)
    done = await runtime.core.pool("general").execute(Work("bench.call_back", args, callbacks=calls))
    await functions.aclose()
    return float(take(done.value))


@dspex.command("bench.call_back")
async def call_back(tool: str, times: int) -> float:
    """In a worker: call a function of the caller's so many times; the median of the seconds that it took."""
    from dspex.worker import engine

    scope = engine.scope_of_call()
    assert scope.callbacks is not None
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        await scope.callbacks.call(scope, tool, {"text": "hello"})
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def hangs() -> None:
    """A function that does not come back while this is measured."""
    _release.wait()


_release = threading.Event()


async def _beside(runtime: dspex.Runtime, hanging: int) -> float:
    """Seconds of an agent's call with one tool, beside so many whose tool hangs; the median."""
    adapter = runtime.adapter(timeout=120.0)

    async def ask(which: str) -> Any:
        return await adapter.agenerate(
            which, module="ReAct", signature="question -> answer", tools=[hangs, sync_tool]
        )

    held = [asyncio.create_task(ask("hangs")) for _ in range(hanging)]
    while sum(thread.name.startswith("dspex-tool-") for thread in threading.enumerate()) < hanging:
        await asyncio.sleep(0.01)
    await latency(20, lambda _: ask("sync_tool"))
    found = await latency(200, lambda _: ask("sync_tool"))
    _release.set()
    await asyncio.gather(*held)
    _release.clear()
    return found


async def _all() -> list[float]:
    from tests.agents import react
    from tests.provider import Provider

    def acts(question: str, turn: int) -> tuple[str, dict[str, Any]] | None:
        return (question, {"text": "x"} if question == "sync_tool" else {}) if turn == 0 else None

    with Provider() as provider:
        provider.reply = react(acts)
        lm = dspex.LM("openai/x", base_url=provider.base_url)
        settings = dspex.Settings(allow_modules=("bench.tools",))
        pools = {"general": dspex.PoolOptions(workers=2)}
        async with dspex.Runtime(lm, pools=pools, settings=settings) as runtime:
            pool = runtime.pool("general")

            async def echo(_: int) -> object:
                return await pool.aexecute("echo", {"text": "hello"})

            await latency(200, echo)
            there = await latency(ROUNDS, echo)
            await _called_back(runtime, "sync_tool", 200)
            threaded = await _called_back(runtime, "sync_tool", ROUNDS)
            awaited = await _called_back(runtime, "async_tool", ROUNDS)
            return [there, threaded, awaited, await _beside(runtime, 0), await _beside(runtime, 20)]


def main() -> list[float]:
    """Seconds of an echo, of a call back of each kind, and of a call alone and beside hanging tools."""
    return asyncio.run(_all())


def rows(rounds: int) -> list[Row]:
    """Run it so many times."""
    runs = [fresh("bench.tools") for _ in range(rounds)]
    micro = [[seconds * 1e6 for seconds in run] for run in runs]
    echo, threaded, awaited, alone, beside = ([run[part] for run in micro] for part in range(5))
    return [
        row("a sync tool called back, p50 / an echo", threaded, echo, "µs", "<= 3"),
        row("an async tool called back, p50 / an echo", awaited, echo, "µs", "<= 3"),
        row("a ReAct call beside 20 hanging tools, p50 / without them", beside, alone, "µs"),
    ]
