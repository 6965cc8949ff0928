"""A supervisor without descriptors: ``python -m tests.chaos.scarce`` prints what became of its calls."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys

import dspex
from tests.chaos.figures import back_to, ends, pids
from tests.descriptors import descriptors, leave_free
from tests.provider import Provider, delayed, echo


async def main() -> dict[str, object]:
    """Answer, with descriptors gone answer on, lose a worker, and be whole again when there are some."""
    with Provider(lambda _: delayed(0.02, echo()), record=False) as provider:
        lm = dspex.LM("openai/x", base_url=provider.base_url)
        async with dspex.Runtime(lm, pools={"general": dspex.PoolOptions(workers=2)}) as runtime:
            adapter, pool = runtime.adapter(timeout=60.0), runtime.pool("general")

            async def ask(number: int) -> None:
                answer = await adapter.agenerate(f"q{number}")
                assert answer.response == f"q{number}"

            async def ping(_: int) -> None:
                assert await pool.aexecute("ping", timeout=60.0) == "pong"

            await back_to(runtime, 2)
            # The provider lives in this process: the workers' connections to it are opened first.
            whole = await ends(100, 16, ask)
            before, limits = descriptors(), resource.getrlimit(resource.RLIMIT_NOFILE)
            leave_free(0)
            none_free = await ends(200, 8, ping)
            victim = pids(runtime)[0]
            os.kill(victim, signal.SIGKILL)
            while victim in pids(runtime):
                await asyncio.sleep(0.005)
            leave_free(0)  # those of the lost worker are gone too
            one_left = await ends(200, 8, ping)
            size = len(pids(runtime))
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            seconds = await back_to(runtime, 2, guard=60.0)
            again = await ends(100, 16, ask)
            return {
                "whole": whole,
                "none_free": none_free,
                "one_left": one_left,
                "size": size,
                "seconds": seconds,
                "again": again,
                "descriptors": [before, descriptors()],
            }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(main())) + "\n")
