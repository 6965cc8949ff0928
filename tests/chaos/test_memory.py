"""A program that takes all memory: its worker is ended before the machine is."""

from __future__ import annotations

import asyncio

import pytest

import dspex
from tests.chaos.figures import back_to, pids, zygote_of
from tests.chaos.test_stuck import neighbours, unharmed
from tests.processes import alive
from tests.provider import Provider

pytestmark = [pytest.mark.chaos, pytest.mark.anyio]

MiB = 1024 * 1024


async def test_a_command_that_eats_memory_is_killed_and_nobody_else(provider: Provider) -> None:
    """If this failed, one call could have the kernel kill the service, or the process that forks workers."""
    lm = dspex.LM("openai/x", base_url=provider.base_url)
    pools = {"general": dspex.PoolOptions(workers=2, max_rss=300 * MiB)}
    settings = dspex.Settings(allow_modules=("tests.chaos.commands",))
    async with dspex.Runtime(lm, pools=pools, settings=settings) as runtime:
        await back_to(runtime, 2)
        zygote = zygote_of(runtime)
        tasks = await neighbours(runtime, provider)
        with pytest.raises(dspex.WorkerLost):
            await runtime.pool("general").aexecute("chaos.eat", {"megabytes": 4000}, timeout=60.0)
        await unharmed(tasks, 2)
        await back_to(runtime, 2)
        assert runtime.stats().pools["general"].restarts["memory"] == 1
        assert alive(zygote)
        assert zygote_of(runtime) == zygote


async def test_a_program_that_eats_memory_is_killed_in_its_own_worker(provider: Provider) -> None:
    """If this failed, users' programs could take the machine down, each in its own process or not."""
    lm = dspex.LM("openai/x", base_url=provider.base_url)
    pools = {
        "general": dspex.PoolOptions(workers=2),
        "isolated": dspex.PoolOptions(max_rss=300 * MiB),
    }
    settings = dspex.Settings(allow_modules=("tests.chaos.programs",))
    async with dspex.Runtime(lm, pools=pools, settings=settings) as runtime:
        await back_to(runtime, 2)
        before, zygote = pids(runtime), zygote_of(runtime)
        with pytest.raises(dspex.WorkerLost):
            await runtime.adapter().agenerate(
                module="tests.chaos.programs:Eat", inputs={"megabytes": 4000}, timeout=60.0
            )
        assert pids(runtime) == before
        assert zygote_of(runtime) == zygote
        while runtime.stats().pools["isolated"].workers:
            await asyncio.sleep(0.01)
