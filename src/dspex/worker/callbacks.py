"""The worker's side of the caller's functions: asks for one to be called, and waits for what it gave."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from dspex.errors import Cancelled, DspexError, PayloadTooLarge, from_wire
from dspex.wire.blobs import Blob
from dspex.wire.messages import NOTHING, ToolCall, ToolResult
from dspex.wire.payloads import Payload, discard, store, take
from dspex.wire.values import decode, encode
from dspex.worker.engine import CallScope


@dataclass(frozen=True, slots=True)
class Returned:
    """What a function of the caller's gave.

    Attributes:
        value: What it returned.
        approval: What its approval said: ``"allowed"`` or ``"edited"``; empty where there was none.
        edited: Its arguments, where they were edited.
    """

    value: Any
    approval: str = ""
    edited: dict[str, Any] | None = None


class CallbackFailed(Exception):
    """A function of the caller's did not return.

    Attributes:
        error: Why; a ``ToolError`` when it raised, was denied, or gave what cannot be sent.
        approval: What its approval said; empty where there was none.
        edited: Its arguments, where they were edited.
    """

    def __init__(self, error: DspexError, approval: str, edited: dict[str, Any] | None) -> None:
        super().__init__(error.message)
        self.error = error
        self.approval = approval
        self.edited = edited


@dataclass(slots=True)
class _Waiting:
    """What waits for an answer.

    Attributes:
        call: Number of the call.
        answer: Gets it.
        in_thread: Whether a thread waits, which nothing but the answer wakes.
    """

    call: int
    answer: asyncio.Future[tuple[ToolResult, Blob | None]]
    in_thread: bool


class WorkerCallbacks:
    """The way of a worker's calls to functions of their callers, on its loop.

    Args:
        send: Sends a message to the supervisor; on the loop only.
        largest: The most bytes that the arguments of a function may have.
    """

    def __init__(self, send: Callable[[ToolCall, Blob | None], None], largest: int) -> None:
        self._send = send
        self._largest = largest
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._waiting: dict[int, _Waiting] = {}
        self._next = 1
        self._ended = False

    async def call(self, scope: CallScope, tool: str, args: dict[str, Any]) -> Returned:
        """Have a function of the caller's called, and wait for what it gives. On any loop.

        Args:
            scope: The call whose caller it is.
            tool: The function's name.
            args: Its arguments by name.

        Raises:
            CallbackFailed: It did not return.
            InvalidInput: An argument cannot be sent.
            PayloadTooLarge: The arguments are too large.
        """
        stored = self._stored(tool, args)
        within = scope.spans.here() if scope.spans is not None else 0
        if threading.get_ident() == self._thread:
            return _read(await self._ask(scope, tool, stored, within))
        # The loop of a program that has the main thread. One that is cancelled cancels the other's task.
        going = asyncio.run_coroutine_threadsafe(self._ask(scope, tool, stored, within), self._loop)
        return _read(await asyncio.wrap_future(going))

    def call_from_thread(self, scope: CallScope, tool: str, args: dict[str, Any]) -> Returned:
        """``call`` for a thread without a loop. A call that is stopped raises ``asyncio.CancelledError``.

        Raises:
            RuntimeError: Called on the worker's loop, which would wait for itself.
        """
        if threading.get_ident() == self._thread:
            raise RuntimeError(
                f"the tool {tool!r} was called synchronously on the event loop; await its acall()"
            )
        stored = self._stored(tool, args)
        within = scope.spans.here() if scope.spans is not None else 0
        asked = self._ask(scope, tool, stored, within, in_thread=True)
        going = asyncio.run_coroutine_threadsafe(asked, self._loop)
        try:
            return _read(going.result())
        except concurrent.futures.CancelledError:
            # As an Exception it would be taken for the tool's own.
            raise asyncio.CancelledError from None

    def _stored(self, tool: str, args: dict[str, Any]) -> Payload:
        pieces, _ = encode(args, where=f"arguments of {tool}")
        size = sum(map(len, pieces))
        if size > self._largest:
            raise PayloadTooLarge(
                f"the arguments of the tool {tool!r} of {size:,} bytes are over the limit of "
                f"{self._largest:,}; send less, or raise Settings(max_result=...)",
                details={"size": size, "limit": self._largest},
            )
        return store(pieces)

    async def _ask(
        self, scope: CallScope, tool: str, args: Payload, within: int, *, in_thread: bool = False
    ) -> tuple[ToolResult, Blob | None]:
        if self._ended:
            discard(args)
            raise _gone()
        number = self._next
        self._next += 1
        answer: asyncio.Future[tuple[ToolResult, Blob | None]] = self._loop.create_future()
        self._waiting[number] = _Waiting(scope.call, answer, in_thread)
        try:
            beside = args if isinstance(args, Blob) else None
            sent = NOTHING if isinstance(args, Blob) else msgspec.Raw(args)
            if scope.spans is not None:
                scope.spans.flush()  # so that it is known there what the function is called in
            self._send(ToolCall(scope.call, number, tool, sent, within), beside)
            return await answer
        finally:
            del self._waiting[number]

    # What the supervisor says

    def answered(self, message: ToolResult, blob: Blob | None) -> None:
        """A function has ended. One that nobody waits for any more is dropped."""
        waiting = self._waiting.get(message.number)
        if waiting is None or waiting.answer.done():
            discard(blob or message.value)
        else:
            waiting.answer.set_result((message, blob))

    def stop(self, call: int) -> None:
        """A call was told to stop: a thread of its that waits here could not be told otherwise."""
        for waiting in self._waiting.values():
            if waiting.call == call and waiting.in_thread:
                waiting.answer.cancel()

    def end(self) -> None:
        """Nothing will come any more. Safe to repeat."""
        self._ended = True
        for waiting in self._waiting.values():
            if not waiting.answer.done():
                waiting.answer.set_exception(_gone())


def _read(answer: tuple[ToolResult, Blob | None]) -> Returned:
    message, blob = answer
    edited = decode(message.args) if message.approval == "edited" else None
    if message.error is not None:
        raise CallbackFailed(from_wire(message.error), message.approval, edited)
    return Returned(take(message.value if blob is None else blob), message.approval, edited)


def _gone() -> Cancelled:
    return Cancelled("the worker is shutting down, and its callers are not reached any more")
