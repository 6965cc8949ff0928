"""Large values through a whole runtime: they arrive, cost nothing afterwards, and disturb nobody."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import dspex
from tests.descriptors import descriptors, leave_free, memories
from tests.fresh import fresh
from tests.processes import until
from tests.provider import Provider, Reply, Request, echo, hanging

MiB = 1024 * 1024
SETTINGS = dspex.Settings(allow_modules=("tests.large",), max_payload=300 * MiB, max_result=290 * MiB)


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as started:
        yield started


@pytest.fixture(scope="module")
def runtime(provider: Provider) -> Iterator[dspex.Runtime]:
    lm = dspex.LM("openai/x", base_url=provider.base_url, api_key="none")
    pools = {"general": dspex.PoolOptions(workers=2, grace=0.3)}
    with dspex.Runtime(lm, pools=pools, settings=SETTINGS) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _flat(provider: Provider, runtime: dspex.Runtime) -> Iterator[None]:
    """Whatever a test does, no blob is left open on either side."""
    yield
    provider.reply = lambda _: echo()
    gc.collect()
    until(lambda: memories() == 0)
    # A cancelled call that has not stopped still costs its worker, and the next test would see that.
    until(lambda: [(w.state, w.in_flight) for w in workers(runtime)] == [("ready", 0)] * 2)
    until(lambda: runtime.pool().execute("large.memories") == runtime.pool().execute("large.memories") == 0)


def workers(runtime: dspex.Runtime) -> list[dspex.WorkerStats]:
    """The workers of the pool, whatever they do."""
    return runtime.stats().pools["general"].workers


def ready(runtime: dspex.Runtime) -> list[int]:
    """The pids of the workers that take calls."""
    return [worker.pid for worker in runtime.stats().pools["general"].workers if worker.state == "ready"]


def test_a_quarter_of_a_gigabyte_goes_both_ways(runtime: dspex.Runtime) -> None:
    """A value that is allowed would fail, or be cut, only because of its size."""
    pool = runtime.pool()
    value = os.urandom(MiB) * 256
    assert pool.execute("echo", {"value": value}) == {"value": value}
    assert pool.execute("large.size", {"value": value}) == 256 * MiB
    del value
    assert pool.execute("large.make", {"size": 256 * MiB}) == b"m" * 256 * MiB


@pytest.mark.parametrize(
    "value",
    ["ü" * 3 * MiB, list(range(MiB)), {"rows": [{"text": "x" * 1000}] * 2000}, [b"x" * MiB, ("y" * MiB,)]],
    ids=["text", "numbers", "rows", "nested"],
)
def test_large_values_of_every_kind_come_back(runtime: dspex.Runtime, value: Any) -> None:
    """What is beside the channel would be read as something else than what is in it."""
    assert runtime.pool().execute("echo", {"value": value}) == {"value": value}


def test_a_large_array_comes_back_as_ones_own(runtime: dspex.Runtime) -> None:
    """An array would be a view of memory that is gone, and crash its reader."""
    array = np.arange(2 * MiB, dtype="i4").reshape(1024, -1)
    found = runtime.pool().execute("echo", {"array": array})["array"]
    gc.collect()
    found += 1
    assert (found == array + 1).all()


def test_programs_take_and_give_large_texts(runtime: dspex.Runtime) -> None:
    """A long document would not reach its program, or its answer not the caller."""
    text = "long," * 200_000
    answer = runtime.adapter().generate(inputs={"question": text}, signature="question -> answer")
    assert answer.answer == text


@pytest.mark.anyio
async def test_large_values_pass_from_an_event_loop() -> None:
    """The async calls would lose what the sync ones can send."""
    value = os.urandom(MiB) * 8
    pools = {"general": dspex.PoolOptions(workers=1)}
    async with dspex.Runtime(pools=pools, settings=SETTINGS) as runtime:
        pool = runtime.pool()
        found = await asyncio.gather(*(pool.aexecute("echo", {"value": value}) for _ in range(4)))
        assert all(each == {"value": value} for each in found)
        assert await pool.aexecute("large.size", {"value": value}) == 8 * MiB
        assert memories() == 0


def test_small_calls_overtake_a_large_one(runtime: dspex.Runtime) -> None:
    """Everybody's calls would wait until one large value has gone through."""
    value = b"x" * 64 * MiB
    with ThreadPoolExecutor(2) as executor:
        for _ in range(3):
            large = [executor.submit(runtime.pool().execute, "echo", {"value": value}) for _ in range(2)]
            answered = 0
            while not all(future.done() for future in large):
                answered += runtime.pool().execute("ping") == "pong"
            assert answered
            assert all(future.result()["value"] == value for future in large)


def test_the_supervisor_never_holds_a_second_copy(runtime: dspex.Runtime) -> None:
    """The service's own process would grow with every large value that passes through it."""
    value = b"x" * 32 * MiB
    pool = runtime.pool()
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(3):
            assert len(pool.execute("echo", {"value": value})["value"]) == 32 * MiB
        held, peak = tracemalloc.get_traced_memory()
        assert peak < 34 * MiB  # the answer, and nothing of that size besides
        assert held < MiB
    finally:
        tracemalloc.stop()


# Limits


def test_what_is_over_a_limit_is_refused_and_nothing_else_is_disturbed(runtime: dspex.Runtime) -> None:
    """One value could take the memory of the service."""
    pool = runtime.pool()
    before = ready(runtime)
    value = b"x" * 100 * MiB
    with pytest.raises(dspex.PayloadTooLarge, match=r"max_payload") as sent:
        pool.execute("large.size", {"value": [value, value, value]})
    assert sent.value.details["limit"] == 300 * MiB
    for command, args in (
        ("large.make", {"size": 291 * MiB}),
        ("echo", {"value": [value, value, value[: 95 * MiB]]}),
    ):
        with pytest.raises(dspex.ResultTooLarge, match=r"max_result") as returned:
            pool.execute(command, args)
        assert returned.value.details["limit"] == 290 * MiB
    assert ready(runtime) == before
    with pytest.raises(dspex.PayloadTooLarge):
        runtime.adapter().generate(inputs={"question": "x" * 301 * MiB}, signature="question -> answer")


# Ends of every kind


def test_descriptors_stay_flat_over_many_large_calls(runtime: dspex.Runtime) -> None:
    """A service would run out of descriptors after a day of large calls, or of failing ones."""
    pool = runtime.pool()
    value = b"x" * 300_000

    def one(number: int) -> None:
        try:
            match number % 5:
                case 0 | 1:
                    pool.execute("echo", {"value": value})
                case 2:
                    pool.execute("large.fail", {"value": value})
                case 3:
                    pool.execute("large.wait", {"value": value}, timeout=0.005)
                case _:
                    pool.execute("no.such", {"value": value})
        except dspex.DspexError:
            pass

    with ThreadPoolExecutor(8) as executor:
        list(executor.map(one, range(20)))
        until(lambda: memories() == 0)
        before = descriptors()
        list(executor.map(one, range(200)))
        until(lambda: memories() == 0)
        assert descriptors() <= before


def test_a_killed_workers_large_calls_are_run_again(runtime: dspex.Runtime, provider: Provider) -> None:
    """The arguments of a call would be gone with the worker that had them first."""
    release = threading.Event()

    def slow_first(_: Request) -> Reply:
        return echo() if release.is_set() else hanging()

    provider.reply = slow_first
    texts = [f"{number}," * 150_000 for number in range(4)]
    adapter = runtime.adapter()
    with ThreadPoolExecutor(4) as executor:
        asked = [executor.submit(adapter.generate, text, signature="question -> answer") for text in texts]
        until(lambda: provider.in_flight == 4)
        release.set()
        for pid in ready(runtime):
            os.kill(pid, signal.SIGKILL)
        answers = [future.result(20) for future in asked]
    assert [answer.answer for answer in answers] == texts
    assert {answer.attempts for answer in answers} <= {2, 3}


def test_a_worker_that_dies_of_a_large_call_leaves_nothing_open(runtime: dspex.Runtime) -> None:
    """Each crash would cost the memory of the call that caused it."""
    with pytest.raises(dspex.WorkerLost):
        runtime.pool().execute("large.die", {"value": b"x" * MiB})


def test_a_stopped_worker_is_killed_with_its_blobs_in_flight(runtime: dspex.Runtime) -> None:
    """Values that a dead worker had not taken yet would stay in memory."""
    for pid in ready(runtime):
        os.kill(pid, signal.SIGSTOP)
    pool = runtime.pool()

    def ask() -> str:
        try:
            pool.execute("large.size", {"value": b"x" * MiB}, timeout=0.3)
        except dspex.DspexError as error:
            return error.code
        return "answered"

    with ThreadPoolExecutor(8) as executor:
        asked = [executor.submit(ask) for _ in range(8)]
        assert {future.result(20) for future in asked} == {"python_timeout"}


@pytest.mark.anyio
@pytest.mark.parametrize("command", ["large.wait", "large.stay"])
async def test_cancelling_a_large_call_lets_go_of_it(runtime: dspex.Runtime, command: str) -> None:
    """A caller that goes away would leave its value in memory."""
    call = asyncio.ensure_future(runtime.pool().aexecute(command, {"value": b"x" * 3 * MiB}, timeout=None))
    await asyncio.sleep(0.1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


def test_closing_lets_go_of_what_waits_and_runs() -> None:
    """A process that opens runtimes again and again would keep the values of their last calls."""
    before = descriptors()
    options = dspex.PoolOptions(workers=1, slots=2, grace=0.1)
    with dspex.Runtime(pools={"general": options}, settings=SETTINGS) as runtime:
        pool = runtime.pool()

        def ask(_: int) -> str:
            try:
                pool.execute("large.stay", {"value": b"x" * MiB}, timeout=None)
            except dspex.DspexError as error:
                return error.code
            return "answered"

        executor = ThreadPoolExecutor(6)
        asked = executor.map(ask, range(6))
        until(lambda: runtime.stats().pools["general"].queued == 4)
    assert set(asked) == {"pool_closed"}
    executor.shutdown()
    assert memories() == 0
    assert descriptors() <= before


def _few_descriptors() -> list[str]:
    pools = {"general": dspex.PoolOptions(workers=1)}
    value = b"x" * MiB
    found = []
    with dspex.Runtime(pools=pools, settings=SETTINGS) as runtime:
        pool = runtime.pool()
        assert pool.execute("echo", {"value": value}) == {"value": value}
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        for free in (0, 1, 2):
            leave_free(free)
            try:
                found.append("same" if pool.execute("echo", {"value": value})["value"] == value else "other")
            except dspex.DspexError as error:
                found.append(error.code)
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        found.append(pool.execute("ping"))
        found.append(str(memories()))
    return found


def test_with_too_few_descriptors_large_values_go_through_the_socket() -> None:
    """A service with all its descriptors in use would lose a worker, or its large calls."""
    # None: not even for the blob. One: for the blob, and none to pass it on. Two are enough.
    assert fresh(_few_descriptors) == ["same", "same", "same", "pong", "0"]


def _queue_without_descriptors() -> list[str]:
    pools = {"general": dspex.PoolOptions(workers=1, slots=1)}
    value = b"x" * MiB
    with dspex.Runtime(pools=pools, settings=SETTINGS) as runtime, ThreadPoolExecutor(40) as executor:
        pool = runtime.pool()
        blocks = executor.submit(pool.execute, "large.wait", {"value": 0}, timeout=1.0)
        until(lambda: runtime.stats().pools["general"].workers[0].in_flight == 1)
        leave_free(12)
        asked = [executor.submit(pool.execute, "large.size", {"value": value}) for _ in range(30)]
        ended = []
        for one in [blocks, *asked]:
            try:
                ended.append(str(one.result()))
            except dspex.DspexError as error:
                ended.append(error.code)
    return ended


def test_a_queue_of_large_calls_without_descriptors_is_served() -> None:
    """One call that cannot be passed on would take all that wait behind it along."""
    assert fresh(_queue_without_descriptors) == ["python_timeout", *[str(MiB)] * 30]


# Workers that are not ours any more


@pytest.mark.parametrize(
    "how",
    [
        "unsealed",
        "a file",
        "a pipe",
        "longer than announced",
        "shorter than announced",
        "empty",
        "over the limit",
        "missing",
        "two",
        "many",
        "unannounced",
        "with another message",
    ],
)
def test_a_hostile_worker_ends_and_nobody_else(runtime: dspex.Runtime, how: str) -> None:
    """A program that took over its worker could crash its supervisor, or read what it should not."""
    pool = runtime.pool()
    until(lambda: len(ready(runtime)) == 2)
    before, open_before = set(ready(runtime)), descriptors()
    with pytest.raises(dspex.WorkerLost) as lost:
        pool.execute("large.hostile", {"how": how}, timeout=20)
    assert any(word in lost.value.details["cause"] for word in ("blob", "descriptor", "memfd"))
    until(lambda: len(ready(runtime)) == 2)
    assert len(before & set(ready(runtime))) == 1
    assert pool.execute("echo", {"value": b"x" * MiB}) == {"value": b"x" * MiB}
    until(lambda: descriptors() <= open_before)


def test_a_late_large_answer_is_dropped(runtime: dspex.Runtime) -> None:
    """An answer that comes after its caller went away would stay in memory."""
    pool = runtime.pool()
    for _ in range(20):
        started = time.monotonic()
        try:
            pool.execute("large.make", {"size": 4 * MiB}, timeout=0.003)
        except dspex.PythonTimeout:
            assert time.monotonic() > started
