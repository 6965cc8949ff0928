"""What a service does today with DSPy and ``dspy.asyncify``; ``after.py`` does the same with dspex.

Takes its model from DSPEX_LM and LM_BASE_URL, as quickstart.py does, and what to show from its argument:
``timeout``, ``many``, ``keys`` or ``errors``.
"""

from __future__ import annotations

import asyncio
import os
import sys

import dspy
from dspy.utils.exceptions import DSPyError

MODEL = os.environ.get("DSPEX_LM", "openai/gpt-5-mini")
BASE_URL = os.environ.get("LM_BASE_URL")

dspy.configure(lm=dspy.LM(MODEL, api_base=BASE_URL))
ask = dspy.asyncify(dspy.Predict("question -> answer"))


async def timeout() -> None:
    """Give up after a second. The thread goes on, with its request, until the model answers."""
    try:
        async with asyncio.timeout(1):
            await ask(question="What is slow?")
    except TimeoutError:
        print("timed out")
    await asyncio.sleep(2)  # the service lives on


async def many() -> None:
    """Ask a hundred questions at once. As many run as DSPy has threads for this: eight."""
    answers = await asyncio.gather(*[ask(question=f"What is {number}?") for number in range(100)])
    print(len(answers), "answers")


async def keys() -> None:
    """Ask with each customer's key. The second gets the first one's answer, from the cache."""
    for key in ("key-of-anna", "key-of-bert"):
        with dspy.context(lm=dspy.LM(MODEL, api_base=BASE_URL, api_key=key)):
            prediction = await ask(question="What is mine?")
        print(prediction.answer)


async def errors() -> None:
    """Tell failures apart by their classes: DSPy's own, and Python's for a timeout."""
    try:
        await ask(question="What is refused?")
    except DSPyError as error:
        print(type(error).__name__)


if __name__ == "__main__":
    asyncio.run({"timeout": timeout, "many": many, "keys": keys, "errors": errors}[sys.argv[1]]())
