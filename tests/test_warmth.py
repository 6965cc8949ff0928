"""Calls of one program stay with a worker that has it built, as long as it has hardly more to do."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

import dspex
from tests.channels import until
from tests.chaos.figures import complete
from tests.provider import Provider, Reply, Request, echo, hanging

pytestmark = pytest.mark.anyio

TWO = {"general": dspex.PoolOptions(workers=2)}


def reply(request: Request) -> Reply:
    """Questions that say so are not answered."""
    return hanging() if "hold-" in json.dumps(request.body) else echo()


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider(reply) as running:
        yield running


@pytest.fixture
async def runtime(provider: Provider) -> AsyncIterator[dspex.Runtime]:
    lm = dspex.LM("openai/x", base_url=provider.base_url)
    async with dspex.Runtime(lm, pools=TWO) as opened:
        await until(lambda: complete(opened, 2))
        yield opened


def in_flight(runtime: dspex.Runtime, number: int) -> int:
    """How many calls a worker runs."""
    workers = runtime.stats().pools["general"].workers
    return next((worker.in_flight for worker in workers if worker.number == number), 0)


async def hold(runtime: dspex.Runtime, signature: str, number: int) -> asyncio.Task[dspex.Response]:
    """Have a program run in some worker, without an end."""
    before = sum(worker.in_flight for worker in runtime.stats().pools["general"].workers)
    task = asyncio.create_task(runtime.adapter().agenerate(f"hold-{number}", signature=signature))
    workers = runtime.stats
    await until(lambda: sum(one.in_flight for one in workers().pools["general"].workers) == before + 1)
    return task


async def leave(*tasks: asyncio.Task[dspex.Response]) -> None:
    """End what was held."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_worker_that_has_the_program_is_preferred(runtime: dspex.Runtime) -> None:
    """If this failed, each worker would build each program, and a program's first calls would all be slow."""
    adapter = runtime.adapter()
    first = await adapter.agenerate("one", signature="question -> reply")
    assert first.worker is not None
    held = await hold(runtime, "question -> reply", 1)
    assert in_flight(runtime, first.worker) == 1
    again = await adapter.agenerate("two", signature="question -> reply")
    assert again.worker == first.worker
    other = await adapter.agenerate("three", signature="question -> other")
    assert other.worker != first.worker, "a program that nobody has goes where there is least to do"
    await leave(held)


async def test_a_loaded_worker_is_not(runtime: dspex.Runtime) -> None:
    """If this failed, one worker would get all calls of a program while other cores are idle."""
    adapter = runtime.adapter()
    first = await adapter.agenerate("one", signature="question -> reply")
    assert first.worker is not None
    held = [await hold(runtime, "question -> reply", number) for number in range(2)]
    assert in_flight(runtime, first.worker) == 2
    third = await adapter.agenerate("two", signature="question -> reply")
    assert third.worker != first.worker
    # From now on both have it, and are equals.
    more = [await hold(runtime, "question -> reply", number) for number in range(2, 8)]
    loads = sorted(worker.in_flight for worker in runtime.stats().pools["general"].workers)
    assert loads == [4, 4]
    await leave(*held, *more)


async def test_nothing_depends_on_it(runtime: dspex.Runtime) -> None:
    """If this failed, a program would be lost with the worker that had it built."""
    adapter = runtime.adapter()
    first = await adapter.agenerate("one", signature="question -> reply")
    (pid,) = [
        worker.pid for worker in runtime.stats().pools["general"].workers if worker.number == first.worker
    ]
    os.kill(pid, signal.SIGKILL)
    again = await adapter.agenerate("two", signature="question -> reply")
    assert again.reply == "two"
    await until(lambda: complete(runtime, 2))
    assert (await adapter.agenerate("three", signature="question -> reply")).reply == "three"
