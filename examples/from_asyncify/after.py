"""What ``before.py`` does, with dspex.

Takes its model from DSPEX_LM and LM_BASE_URL, as quickstart.py does, and what to show from its argument:
``timeout``, ``many``, ``keys`` or ``errors``.
"""

from __future__ import annotations

import asyncio
import os
import sys

import dspex

MODEL = os.environ.get("DSPEX_LM", "openai/gpt-5-mini")
BASE_URL = os.environ.get("LM_BASE_URL")
ASK = "question -> answer"


async def timeout(adapter: dspex.DSPyAdapter) -> None:
    """Stop after a second: the request is dropped, and its connection closed."""
    try:
        await adapter.agenerate("What is slow?", signature=ASK, timeout=1)
    except dspex.PythonTimeout:
        print("timed out")
    await asyncio.sleep(2)  # the service lives on


async def many(adapter: dspex.DSPyAdapter) -> None:
    """Ask a hundred questions at once. All run: a worker has 64 slots, and there is one per core."""
    answers = await asyncio.gather(
        *[adapter.agenerate(f"What is {number}?", signature=ASK) for number in range(100)]
    )
    print(len(answers), "answers")


async def keys(adapter: dspex.DSPyAdapter) -> None:
    """Ask with each customer's key. Each gets an answer of their own."""
    for key in ("key-of-anna", "key-of-bert"):
        lm = dspex.LM(MODEL, base_url=BASE_URL, api_key=key)
        response = await adapter.agenerate("What is mine?", signature=ASK, lm=lm)
        print(response.answer)


async def errors(adapter: dspex.DSPyAdapter) -> None:
    """Tell failures apart by a code that stays, and whether to try again."""
    try:
        await adapter.agenerate("What is refused?", signature=ASK)
    except dspex.DspexError as error:
        print(error.code, error.retryable)


async def main(name: str) -> None:
    """Show one of them."""
    pools = {"general": dspex.PoolOptions(workers=2)}
    async with dspex.Runtime(lm=dspex.LM(MODEL, base_url=BASE_URL), pools=pools) as runtime:
        shown = {"timeout": timeout, "many": many, "keys": keys, "errors": errors}[name]
        await shown(runtime.adapter())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
