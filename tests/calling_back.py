"""Commands of an operator's that call functions of their caller: ``allow_modules=["tests.calling_back"]``."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import dspex


def _scope() -> Any:
    from dspex.worker import engine

    return engine.scope_of_call()


def _told(error: Any) -> str:
    return f"{error.error.code}: {error.error.message}"


@dspex.command("tests.call_back")
async def call_back(tool: str, args: dict[str, Any], times: int = 1, size: int = 0) -> list[Any]:
    """What a function of the caller's gives, several times side by side."""
    from dspex.worker.callbacks import CallbackFailed

    scope = _scope()

    async def once(number: int) -> Any:
        try:
            return (
                await scope.callbacks.call(scope, tool, {**args, "number": number, "text": "x" * size})
            ).value
        except CallbackFailed as failed:
            return _told(failed)

    return list(await asyncio.gather(*(once(number) for number in range(times))))


@dspex.command("tests.call_back_in_thread")
def call_back_in_thread(tool: str, args: dict[str, Any]) -> Any:
    """The same from a thread."""
    scope = _scope()
    return scope.callbacks.call_from_thread(scope, tool, args).value


@dspex.command("tests.call_back_and_leave")
async def call_back_and_leave(tool: str) -> str:
    """Ask, and end before the answer is there."""
    scope = _scope()
    left = asyncio.ensure_future(scope.callbacks.call(scope, tool, {}))
    await asyncio.sleep(0)
    left.cancel()
    return "left"


@dspex.command("tests.call_back_and_die")
async def call_back_and_die(tool: str) -> str:
    """Have a function called, and crash; one that says "live" is obeyed."""
    scope = _scope()
    said = (await scope.callbacks.call(scope, tool, {})).value
    if said != "live":
        os._exit(7)
    return f"{said} in {os.getpid()}"


@dspex.command("tests.call_back_on_loop")
async def call_back_on_loop(tool: str) -> Any:
    """The mistake of blocking the loop that the answer would come by."""
    scope = _scope()
    return scope.callbacks.call_from_thread(scope, tool, {})


@dspex.command("tests.ask_late")
async def ask_late(tool: str) -> Any:
    """Ask for a function when the call is told to stop."""
    scope = _scope()
    try:
        await asyncio.sleep(60)
    finally:
        late = asyncio.ensure_future(scope.callbacks.call(scope, tool, {}))
        await asyncio.sleep(0)
        late.cancel()
