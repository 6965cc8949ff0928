"""Work that stops when the client goes away.

A server does not cancel a handler when its client disconnects: it sends the handler a message, which nobody
reads unless the handler does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

T = TypeVar("T")


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await the work, and cancel it when the client disconnects.

    Args:
        request: The request, its body read; FastAPI has read it when a handler with parameters begins.
        work: What to do.

    Raises:
        ClientDisconnect: The client went away; the work has stopped.
    """
    doing = asyncio.create_task(work)
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise ClientDisconnect
        return doing.result()
    finally:
        # Also when this handler is itself cancelled, by a server that shuts down.
        doing.cancel()
        leaving.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
