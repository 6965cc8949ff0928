"""Commands of an operator's, for tests: ``Settings(allow_modules=["tests.commands"])``."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dspex


@dataclass
class Result:
    """Named like a message of the channel's own."""

    id: int
    error: str


@dspex.command("tests.add")
def add(a: float, b: float = 1) -> float:
    """The sum, from a thread of the command's own."""
    assert threading.current_thread() is not threading.main_thread()
    return a + b


@dspex.command("tests.await")
async def awaited(text: str) -> list[str]:
    """The text, from the worker's loop."""
    await asyncio.sleep(0)
    assert threading.current_thread() is threading.main_thread()
    return [text, "awaited"]


@dspex.command("tests.say")
def say(text: str, to: str = "stdout") -> str:
    """Print a line."""
    print(text, file=getattr(sys, to))
    return "said"


@dspex.command("tests.say_and_wait")
async def say_and_wait(text: str) -> None:
    """Print a text, and do not end."""
    print(text, flush=True)  # noqa: T201 (it is what the command is for)
    await asyncio.sleep(3600)


@dspex.command("tests.write")
def write(text: str) -> None:
    """Write where the channel might be, past Python's own streams."""
    import os

    for descriptor in (1, 2):
        os.write(descriptor, text.encode())


class Mute(Exception):
    """An exception that fails when it is asked what it says."""

    def __str__(self) -> str:
        raise RuntimeError("nothing to say")


RAISED: dict[str, Callable[[], BaseException]] = {
    "value": lambda: ValueError("no good"),
    "exit": lambda: SystemExit(3),
    "interrupt": KeyboardInterrupt,
    "timeout": lambda: TimeoutError("too late"),
    "stop": lambda: StopIteration("the end"),
    "cancelled": lambda: asyncio.CancelledError("from inside"),
    "mute": Mute,
    "surrogate": lambda: ValueError("half a \ud83d"),
    "own": lambda: dspex.BudgetExceeded("too dear", details={"limit": 3}, retry_after=2.0),
    "unsendable": lambda: dspex.BudgetExceeded("too dear", details={"socket": object()}),
}


@dspex.command("tests.fail")
def fail(how: str) -> None:
    """Raise it in a thread."""
    _deeper(how)


@dspex.command("tests.afail")
async def afail(how: str) -> None:
    """Raise it on the loop."""
    _deeper(how)


def _deeper(how: str) -> None:
    raise RAISED[how]()


@dspex.command("tests.result")
def result(what: str) -> Any:
    """Something that is hard to send, or cannot be sent."""
    made: dict[str, Any] = {
        "socket": {"ok": 1, "socket": socket.socket, "list": [1, iter(())]},
        "function": result,
        "coroutine class": asyncio.Queue,
        "record": Result(1, "none"),
        "large": "x" * 10_000_000,
    }
    if what == "itself":
        made[what] = made
        return made
    return made[what]


@dspex.command("tests.modules")
def modules(names: list[str]) -> list[str]:
    """Which of these modules are imported here."""
    return [name for name in names if name in sys.modules]


@dspex.command("tests.growth")
def growth() -> dict[str, int]:
    """What DSPy keeps of the calls that this worker has run."""
    import dspy

    keepers = [thing for thing in gc.get_objects() if isinstance(thing, dspy.BaseLM | dspy.Module)]
    return {
        "global history": len(dspy.clients.base_lm.GLOBAL_HISTORY),
        "trace": len(dspy.settings.trace or []),
        "histories": sum(len(keeper.history) for keeper in keepers),
        "usage": len(getattr(dspy.settings.usage_tracker, "usage_data", ())),
        "cached": len(getattr(dspy.cache, "memory_cache", ())),
    }


@dspex.command("tests.sleep")
def sleep(seconds: float) -> None:
    """Sleep in a thread, as nothing can interrupt it."""
    time.sleep(seconds)
