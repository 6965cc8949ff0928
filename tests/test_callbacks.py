"""The channel between a program in a worker and the functions of its caller."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

import dspex
from dspex.pool.work import Done, Work
from dspex.wire.blobs import Blob
from dspex.wire.messages import NOTHING, ToolCall, ToolResult
from dspex.wire.payloads import discard, encode_arguments, store, take
from dspex.wire.values import encode
from tests.processes import until

Answer = Callable[[ToolResult, Blob | None], None]
LARGEST = 8 * 1024 * 1024


@dataclass
class Functions:
    """What a caller's functions do, on the runtime's loop.

    Attributes:
        give: What the function returns; an exception to be told, or None for no answer yet.
        repeatable: Whether the call may run again.
        asked: What was asked.
        held: Those who wait for an answer.
        stops: How many times they were stopped.
    """

    give: Callable[[ToolCall, dict[str, Any]], Any]
    repeatable: bool = True
    asked: list[dict[str, Any]] = field(default_factory=list)
    held: list[tuple[ToolCall, Answer]] = field(default_factory=list)
    stops: int = 0

    def call(self, message: ToolCall, args: msgspec.Raw | Blob, answer: Answer) -> bool:
        given = take(args)
        self.asked.append(given)
        found = self.give(message, given)
        if found is None:
            self.held.append((message, answer))
        else:
            reply(message, found, answer)
        return self.repeatable

    def stop(self) -> None:
        self.stops += 1


def reply(message: ToolCall, value: Any, answer: Answer) -> None:
    if isinstance(value, dspex.DspexError):
        answer(ToolResult(message.call, message.number, error=value.to_wire()), None)
        return
    stored = store(encode(value)[0])
    if isinstance(stored, Blob):
        answer(ToolResult(message.call, message.number, NOTHING), stored)
    else:
        answer(ToolResult(message.call, message.number, msgspec.Raw(stored)), None)


@pytest.fixture(scope="module")
def runtime() -> Iterator[dspex.Runtime]:
    settings = dspex.Settings(
        allow_modules=("tests.calling_back",), max_payload=LARGEST, max_result=LARGEST, file=False
    )
    with dspex.Runtime(
        pools={"general": dspex.PoolOptions(workers=1, grace=5.0)}, settings=settings
    ) as opened:
        yield opened


def run(
    runtime: dspex.Runtime,
    command: str,
    args: dict[str, Any],
    functions: Functions | None,
    *,
    timeout: float = 60.0,
    repeatable: bool = False,
    isolated: bool = False,
) -> Any:
    async def execute() -> Done:
        stored, _ = encode_arguments(args, LARGEST, where="args")
        assert not isinstance(stored, list)
        work = Work(command, stored, time.monotonic() + timeout, callbacks=functions, repeatable=repeatable)
        try:
            return await runtime.core.pool("general", isolated=isolated).execute(work)
        finally:
            discard(stored)

    return take(runtime.portal.run(execute, "twin").value)


@pytest.mark.parametrize("isolated", [False, True])
def test_functions_are_called_side_by_side(runtime: dspex.Runtime, isolated: bool) -> None:
    """If this failed, one program's tools would wait for one another, or get each other's answers."""
    functions = Functions(lambda _, args: None)

    def answer_all() -> None:
        until(lambda: len(functions.held) == 20)
        held = list(zip(functions.held, functions.asked, strict=True))

        def last_first() -> None:
            for (message, answer), args in reversed(held):
                reply(message, args["number"] * 10, answer)

        assert runtime.portal._loop is not None
        runtime.portal._loop.call_soon_threadsafe(last_first)

    answering = threading.Thread(target=answer_all)
    answering.start()
    got = run(
        runtime, "tests.call_back", {"tool": "f", "args": {}, "times": 20}, functions, isolated=isolated
    )
    answering.join()
    assert got == [number * 10 for number in range(20)]


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("size", [10, 5 * 1024 * 1024])
def test_values_of_any_size_go_both_ways(runtime: dspex.Runtime, size: int, isolated: bool) -> None:
    """If this failed, a tool that reads a document could not be given one, or give one back."""
    functions = Functions(lambda _, args: {"back": args["text"] + "!"})
    sent = {"tool": "f", "args": {"text": "é" * (size // 2)}}
    got = run(runtime, "tests.call_back_in_thread", sent, functions, isolated=isolated)
    assert got == {"back": "é" * (size // 2) + "!"}


def test_an_error_of_a_function_arrives_as_it_was_told(runtime: dspex.Runtime) -> None:
    """If this failed, a program could not tell the model what went wrong with a tool."""
    functions = Functions(lambda *_: dspex.ToolError("it broke", details={"type": "KeyError"}))
    assert run(runtime, "tests.call_back", {"tool": "f", "args": {}}, functions) == ["tool_error: it broke"]


def test_arguments_above_the_limit_are_refused(runtime: dspex.Runtime) -> None:
    """If this failed, the channel would be cut for one large argument, with all calls on it."""
    functions = Functions(lambda *_: "never")
    many = {"tool": "f", "args": {}, "size": LARGEST}
    with pytest.raises(dspex.PayloadTooLarge, match=r"arguments of the tool 'f'.*max_result"):
        run(runtime, "tests.call_back", many, functions)
    assert not functions.asked
    assert run(runtime, "echo", {"a": 1}, None) == {"a": 1}


def test_a_call_without_functions_is_told_so(runtime: dspex.Runtime) -> None:
    """If this failed, a program that asks for a function that nobody gave would hang to its deadline."""
    got = run(runtime, "tests.call_back", {"tool": "f", "args": {}}, None)
    assert got == ["not_allowed: the call has no functions of its caller's, and so no 'f'"]


def test_a_sync_call_on_the_workers_loop_is_refused(runtime: dspex.Runtime) -> None:
    """If this failed, the worker's loop would wait for itself, and its neighbours with it."""
    with pytest.raises(dspex.PythonError, match="await its acall"):
        run(runtime, "tests.call_back_on_loop", {"tool": "f"}, Functions(lambda *_: "never"))


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("command", ["tests.call_back", "tests.call_back_in_thread"])
def test_a_call_that_waits_for_a_function_ends_at_its_deadline(
    runtime: dspex.Runtime, command: str, isolated: bool
) -> None:
    """If this failed, a worker would be killed for a function that hangs in its caller's process."""
    before = runtime.stats().pools["general"].restarts
    functions = Functions(lambda *_: None)
    with pytest.raises(dspex.PythonTimeout) as caught:
        run(runtime, command, {"tool": "f", "args": {}}, functions, timeout=0.3, isolated=isolated)
    assert caught.value.details["killed"] is False
    assert functions.stops
    assert runtime.stats().pools["general"].restarts == before


def test_what_comes_too_late_is_dropped_and_counted(runtime: dspex.Runtime) -> None:
    """If this failed, a late answer could reach another call, or a function run for nobody."""
    functions = Functions(lambda *_: None)
    before = runtime.stats().pools["general"].late_replies
    assert run(runtime, "tests.call_back_and_leave", {"tool": "f"}, functions) == "left"
    until(lambda: functions.held)
    message, answer = functions.held[0]
    assert runtime.portal._loop is not None
    runtime.portal._loop.call_soon_threadsafe(reply, message, "late", answer)
    until(lambda: runtime.stats().pools["general"].late_replies > before)
    with pytest.raises(dspex.PythonTimeout):
        run(runtime, "tests.ask_late", {"tool": "f"}, functions, timeout=0.2)
    assert run(runtime, "tests.call_back", {"tool": "f", "args": {}}, Functions(lambda *_: 1)) == [1]


def test_a_call_may_run_again_until_a_function_was_called_that_may_not(runtime: dspex.Runtime) -> None:
    """If this failed, a lost worker would have an e-mail sent twice, or a search not tried again."""
    said = iter(["die", "live"])
    twice = Functions(lambda *_: next(said), repeatable=True)
    got = run(runtime, "tests.call_back_and_die", {"tool": "f"}, twice, repeatable=True, isolated=True)
    assert got.startswith("live")
    assert len(twice.asked) == 2
    once = Functions(lambda *_: "die", repeatable=False)
    with pytest.raises(dspex.WorkerLost):
        run(runtime, "tests.call_back_and_die", {"tool": "f"}, once, repeatable=True, isolated=True)
    assert len(once.asked) == 1


@pytest.mark.anyio
async def test_the_end_of_a_worker_in_this_process_frees_the_threads_that_wait() -> None:
    """If this failed, closing an in-process runtime would wait for ever for a thread of a command."""
    from dspex.testing.inprocess import InProcessRuntime

    functions = Functions(lambda *_: None)
    settings = dspex.Settings(allow_modules=("tests.calling_back",), file=False)
    async with InProcessRuntime(pools={"general": {"workers": 1}}, settings=settings) as runtime:
        stored, _ = encode_arguments({"tool": "f", "args": {}}, LARGEST, where="args")
        assert isinstance(stored, bytes)
        pool = runtime.core.pool("general")
        waiting = asyncio.create_task(
            pool.execute(Work("tests.call_back_in_thread", stored, callbacks=functions))
        )
        await asyncio.to_thread(until, lambda: functions.held)
    with pytest.raises(dspex.PoolClosed):
        await waiting
    until(lambda: not [t for t in threading.enumerate() if "call_back" in t.name])
