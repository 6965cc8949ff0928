"""What a call that streams tells while it runs, and how much of it may be on its way."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from dspex.wire.messages import NOTHING, Chunk
from dspex.wire.values import encode_result

# Bytes of a tool's arguments or result that an event tells; the answer has all of them.
_LARGEST = 64 * 1024


class Outflow:
    """The way of one call's chunks, on the worker's loop.

    Deltas wait for credit, so that whoever reads slowly slows what writes. The rest is little and waits for
    nothing.

    Args:
        call: The call's number.
        send: Sends a message to the supervisor; on the loop only.
        credit: How many deltas may be sent at first.
    """

    def __init__(self, call: int, send: Callable[[Chunk], None], credit: int) -> None:
        self._call = call
        self._send = send
        self._credit = credit
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._more = asyncio.Event()
        self._stopped = False

    # On the worker's loop

    def grant(self, more: int) -> None:
        """So many deltas more may be sent."""
        self._credit += more
        self._more.set()

    def stop(self) -> None:
        """Nobody reads any more: threads that wait for credit are told so."""
        self._stopped = True
        self._more.set()

    async def _delta(self, field: str, text: str) -> None:
        while self._credit <= 0:
            if self._stopped:
                raise asyncio.CancelledError
            self._more.clear()
            await self._more.wait()
        if self._stopped:
            raise asyncio.CancelledError
        self._credit -= 1
        self._send(Chunk(self._call, "delta", field, text))

    # Anywhere

    async def delta(self, field: str, text: str) -> None:
        """Tell the next piece of an output's text, when there is credit for it; on any loop."""
        if threading.get_ident() == self._thread:
            await self._delta(field, text)
        else:  # the loop of a program that has the main thread
            going = asyncio.run_coroutine_threadsafe(self._delta(field, text), self._loop)
            await asyncio.wrap_future(going)

    def delta_from_thread(self, field: str, text: str) -> None:
        """``delta`` for a thread without a loop. A call that is stopped raises ``asyncio.CancelledError``."""
        going = asyncio.run_coroutine_threadsafe(self._delta(field, text), self._loop)
        try:
            going.result()
        except concurrent.futures.CancelledError:
            raise asyncio.CancelledError from None

    def status(self, text: str) -> None:
        """Tell what the program does now, in words."""
        self._tell(Chunk(self._call, "status", text=text))

    def usage(self, usage: Any) -> None:
        """Tell the tokens of an LM request that has ended."""
        self._tell(Chunk(self._call, "usage", value=msgspec.Raw(msgspec.msgpack.encode(usage))))

    def tool_call(self, name: str, arguments: dict[str, Any]) -> None:
        """Tell that a tool is called."""
        self._tell(Chunk(self._call, "tool_call", name, value=_encoded(arguments)))

    def tool_result(self, name: str, value: Any, error: str | None) -> None:
        """Tell what a tool gave, or why it failed."""
        told = _encoded(value) if error is None else NOTHING
        failed = "" if error is None else error or "it failed"
        self._tell(Chunk(self._call, "tool_result", name, failed, told))

    def _tell(self, chunk: Chunk) -> None:
        if threading.get_ident() == self._thread:
            self._send(chunk)
        else:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever listened
                self._loop.call_soon_threadsafe(self._send, chunk)


def _encoded(value: Any) -> msgspec.Raw:
    """A value as it is told; one that is large or cannot be sent is told by nothing."""
    try:
        pieces = encode_result(value)
    except Exception:  # noqa: BLE001 (whatever a tool gave: the call itself says what is wrong with it)
        return NOTHING
    return msgspec.Raw(b"".join(pieces)) if sum(map(len, pieces)) <= _LARGEST else NOTHING
