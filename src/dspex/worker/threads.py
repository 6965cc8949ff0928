"""Where the work of a call runs, and blocking code that counts as running until it has really ended."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, Protocol

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
    ended = asyncio.get_running_loop().run_in_executor(executor, context.run, caught, function)
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


def caught(function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """What a function returned or raised, as a value."""
    # As a value: a future refuses StopIteration, and makes new ones of TimeoutError and CancelledError.
    try:
        return function(), None
    except BaseException as error:  # noqa: BLE001 (whatever it is, it is the outcome)
        return None, error


async def side_by_side(coroutines: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """What coroutines give, in their order; the first that fails stops the others, and its error is raised.

    When this ends, all of them have ended, so that their LM requests are settled.
    """
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Place(Protocol):
    """Where the work of a call runs."""

    async def blocking(self, function: Callable[[], Any]) -> Any:
        """Run what blocks; one that is cancelled ends when the function has ended."""

    async def awaited(self, function: Callable[[], Awaitable[Any]]) -> Any:
        """Run what awaits; it is cancelled where this is."""


class Shared:
    """The place of calls that share a worker: its event loop, and threads beside it.

    Args:
        slots: Calls that there may be at once.
    """

    def __init__(self, slots: int) -> None:
        # User code has threads of its own: DSPy's acall needs the loop's default executor.
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="dspex-command")

    async def blocking(self, function: Callable[[], Any]) -> Any:
        """Run it in a thread, so that the calls on the loop go on."""
        return await in_thread(self._threads, function)

    async def awaited(self, function: Callable[[], Awaitable[Any]]) -> Any:
        """Run it on the loop."""
        return await function()
