"""Many questions at once, with a progress bar.

Takes its model from DSPEX_LM and LM_BASE_URL, as quickstart.py does. The embedded model answers two at a
time, so twenty take it half a minute; the first argument is another number of questions.
"""

from __future__ import annotations

import asyncio
import os
import sys

from rich.progress import track

import dspex

LM = dspex.LM(os.environ.get("DSPEX_LM", "local"), base_url=os.environ.get("LM_BASE_URL"))


async def answer(adapter: dspex.DSPyAdapter, number: int) -> int:
    """Ask one question."""
    response = await adapter.agenerate(
        f"What is {number} + {number}?", signature="question -> answer: int", timeout=None
    )
    return int(response.answer)


async def main(count: int) -> None:
    """Ask all of them, and count those that came back."""
    async with dspex.Runtime(lm=LM) as runtime:
        adapter = runtime.adapter()
        calls = [asyncio.create_task(answer(adapter, number)) for number in range(count)]
        failed = 0
        for call in track(asyncio.as_completed(calls), total=count, description="asking"):
            try:
                await call
            except dspex.DspexError as error:
                failed += 1
                print(error.code, error.message)
    print(f"{count - failed} answers, {failed} failures")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20))
