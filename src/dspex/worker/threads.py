"""Blocking code in a thread, counted as running until it has really ended."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

#: What the running call's worker waits for. A process that ends takes its threads along; a worker that
#: shares its process with others can only stop waiting, by cancelling these.
waiting: contextvars.ContextVar[set[asyncio.Future[Any]]] = contextvars.ContextVar("dspex_waiting")


async def in_thread(executor: Executor | None, function: Callable[[], Any]) -> Any:
    """Run a blocking function; a call that is cancelled keeps its slot until the thread has ended.

    A thread cannot be stopped. To answer sooner would call a thing stopped that still runs, so nothing is
    said, and after its grace the supervisor kills this process.

    Args:
        executor: Whose thread; None is the loop's default.
        function: What to run; it sees the caller's context variables.
    """
    context = contextvars.copy_context()
    ended = asyncio.get_running_loop().run_in_executor(executor, context.run, _caught, function)
    if (others := waiting.get(None)) is not None:
        others.add(ended)
        ended.add_done_callback(others.discard)
    try:
        value, error = await asyncio.shield(ended)
    except asyncio.CancelledError:
        while not ended.done():
            try:
                await asyncio.wait([ended])
            except asyncio.CancelledError:
                continue
        raise
    if error is not None:
        raise error
    return value


def _caught(function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    # As a value: a future refuses StopIteration, and makes new ones of TimeoutError and CancelledError.
    try:
        return function(), None
    except BaseException as error:  # noqa: BLE001 (whatever it is, it is the outcome)
        return None, error
