"""A supervisor under load, for a test that kills it: ``python -m tests.chaos.loaded MARK``."""

from __future__ import annotations

import asyncio
import sys

import dspex
from tests.provider import Provider, delayed, echo

SETTINGS = dspex.Settings(allow_modules=("tests.stuck", "tests.chaos.commands"))


async def main(mark: str) -> None:
    """Keep questions, stuck commands and commands with families running for ever."""
    with Provider(lambda _: delayed(0.05, echo()), record=False) as provider:
        lm = dspex.LM("openai/x", base_url=provider.base_url)
        pools = {"general": dspex.PoolOptions(workers=2), "stuck": dspex.PoolOptions(workers=2)}
        async with dspex.Runtime(lm, pools=pools, settings=SETTINGS) as runtime:
            adapter, stuck = runtime.adapter(), runtime.pool("stuck")

            async def ask(number: int) -> None:
                while True:
                    await adapter.agenerate(f"q{number}")

            doomed = [
                stuck.aexecute("grandchild", {"pidfile": f"{mark}.near", "mark": mark}, timeout=None),
                stuck.aexecute(
                    "grandchild", {"pidfile": f"{mark}.far", "setsid": True, "mark": mark}, timeout=None
                ),
                stuck.aexecute("chaos.child", {"mark": mark}, timeout=None),
            ]
            await asyncio.gather(*doomed, *(ask(number) for number in range(16)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
