"""A worker's life after the fork: one event loop, one channel, many calls at once."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from typing import Any

import msgspec

from dspex.errors import Cancelled, DspexError, PythonError, PythonTimeout, from_wire
from dspex.process import forks
from dspex.wire.blobs import Blob
from dspex.wire.channel import Channel
from dspex.wire.codes import ResultOptions, results
from dspex.wire.messages import (
    ENVELOPE,
    NOTHING,
    PROTOCOL,
    Beat,
    Call,
    Cancel,
    Credit,
    DropLM,
    Fault,
    Knock,
    LmGo,
    Ready,
    Result,
    Shutdown,
    ToolResult,
    ToWorker,
    UseLM,
    Watch,
    WorkerOptions,
    read_by_worker,
)
from dspex.wire.payloads import Payload, astore, check_result, discard, is_heavy, store
from dspex.worker import faults, installed
from dspex.worker.callbacks import WorkerCallbacks
from dspex.worker.commands import Commands
from dspex.worker.door import WorkerDoor
from dspex.worker.engine import CallScope, current
from dspex.worker.isolated import MainThread
from dspex.worker.lms import LMs
from dspex.worker.outflow import Outflow
from dspex.worker.programs import Programs
from dspex.worker.sandbox import choose
from dspex.worker.spans import Spans, is_sampled, join
from dspex.worker.threads import Shared, waiting

_log = logging.getLogger("dspex.worker")


class Running:
    """A call that runs.

    Attributes:
        begun: Whether that has taken its first step.
        task: What runs it.
        stop: The error to answer with once it has stopped, when it was told to.
        stream: The way of what it tells while it runs; None of a call that does not stream.
        timer: Fires at the call's deadline.
    """

    __slots__ = ("begun", "stop", "stream", "task", "timer")

    def __init__(self) -> None:
        self.begun = False
        self.task: asyncio.Task[None] | None = None
        self.stop: DspexError | None = None
        self.stream: Outflow | None = None
        self.timer: asyncio.TimerHandle | None = None

    def check(self) -> None:
        """Stop here if it was told to before it began."""
        if self.stop is not None:
            raise asyncio.CancelledError


class Worker:
    """Answers calls until its channel ends.

    Args:
        sock: The worker's end of its channel.
        options: What the supervisor told.
        main_thread: Where calls run when they do not share the channel's loop.

    Attributes:
        running: The calls that run, by number.
        done: How many have ended.
    """

    def __init__(
        self, sock: socket.socket, options: WorkerOptions, main_thread: MainThread | None = None
    ) -> None:
        self.running: dict[int, Running] = {}
        self.done = 0
        self.programs = Programs()
        self.lms = LMs(options.allow_modules, closes=main_thread is None)
        self._max_result = options.max_result
        self._results = ResultOptions(options.max_result, options.show_unsendable)
        choose.allow(options.sandbox)
        self._commands = Commands(self, options.allow_modules, main_thread or Shared(options.slots))
        self._ended = asyncio.Event()
        self._waiting: set[asyncio.Future[Any]] = set()
        self._channel: Channel[ToWorker] = Channel(
            sock,
            read_by_worker,
            on_message=self._on_message,
            on_close=self._on_close,
            # Where blobs cannot be had, all of a payload goes through the channel.
            limit=max(options.max_payload, options.max_result) + ENVELOPE,
            blob_limit=options.max_payload,
        )
        self._door = WorkerDoor(self._channel.send)
        self._callbacks = WorkerCallbacks(self._channel.send, options.max_result)
        # A program that forks must not share the channel with its children.
        forks.guard(self._channel)

    async def serve(self) -> None:
        """Say that this worker is ready, and answer until told to stop."""
        self._channel.send(Ready(PROTOCOL, installed.encoded()))
        await self._ended.wait()
        for running in self.running.values():
            if running.task is not None:
                running.task.cancel()
        await self._channel.flushed()

    def leave(self) -> list[asyncio.Task[None]]:
        """Say nothing more and stop what can be stopped, where the process does not end with its worker.

        Returns:
            The calls that ran, which have been told to stop.
        """
        self._channel.close()
        self._ended.set()
        self._callbacks.end()
        tasks = [running.task for running in self.running.values() if running.task is not None]
        for stopping in (*tasks, *self._waiting):
            stopping.cancel()
        return tasks

    def _on_close(self, reason: str | None) -> None:
        if reason is not None:
            _log.error("the channel to the supervisor ended: %s", reason)
        self._callbacks.end()
        self._ended.set()

    def _on_message(self, message: ToWorker, blob: Blob | None) -> None:
        match message:
            case Call():
                self._start(message, message.args if blob is None else blob)
            case Credit(id=number, more=more):
                running = self.running.get(number)
                if running is not None and running.stream is not None:
                    running.stream.grant(more)
            case Cancel(id=number):
                self._stop(number, Cancelled("the caller went away"))
            case LmGo(ask=ask, refused=refused):
                self._door.go(ask, None if refused is None else from_wire(refused))
            case ToolResult():
                self._callbacks.answered(message, blob)
            case Watch(gate=gate, on=on):
                self._door.watch(gate, on=on)
            case UseLM(number=number, spec=spec):
                self.lms.add(number, spec)
            case DropLM(number=number):
                self.lms.drop(number)
            case Knock():
                self._channel.send(Beat())
            case Shutdown():
                self._ended.set()

    def _start(self, call: Call, args: msgspec.Raw | Blob) -> None:
        match call.command:
            case "echo":
                self._echo(call.id, args)
            case "ping":
                self._channel.send(Result(call.id, _PONG))
                self.done += 1
            case "shutdown":
                # The supervisor then lets its other calls end, and tells it to exit.
                self._channel.send(Result(call.id, NOTHING))
                self.done += 1
            case _:
                running = self.running[call.id] = Running()
                if call.credit is not None:
                    running.stream = Outflow(call.id, self._channel.send, call.credit)
                if call.deadline is not None:
                    left = call.deadline - time.monotonic()
                    loop = asyncio.get_running_loop()
                    running.timer = loop.call_later(max(0.0, left), self._expire, call.id)
                running.task = asyncio.create_task(self._run(call, args, running))

    def _echo(self, number: int, args: msgspec.Raw | Blob) -> None:
        """Send the arguments back as they came; nothing touches their bytes."""
        self.done += 1
        try:
            if isinstance(args, Blob):
                check_result(args.size, self._max_result)
                if args.lost:
                    raise PythonError("the arguments did not reach the worker: it has no descriptor free")
                self._channel.send(Result(number, NOTHING), args)
            else:
                check_result(len(memoryview(args)), self._max_result)
                self._channel.send(Result(number, args))
        except DspexError as error:
            discard(args)
            self._send_fault(Fault(number, error.to_wire()))

    def _expire(self, number: int) -> None:
        self._stop(number, PythonTimeout("the deadline passed"))

    def _stop(self, number: int, error: DspexError) -> None:
        running = self.running.get(number)
        if running is not None and running.task is not None and running.stop is None:
            running.stop = error
            self._callbacks.stop(number)
            if running.stream is not None:
                running.stream.stop()
            if running.begun:  # one that has not would never say that it has ended
                running.task.cancel()

    async def _run(self, call: Call, args: msgspec.Raw | Blob, running: Running) -> None:
        scope = CallScope(self._door, call.id, call.deadline, call.seat, self._callbacks)
        scope.messages = [] if call.debug else None
        scope.stream = running.stream
        scope.asks = call.asks
        if is_sampled(call.trace):
            scope.spans = Spans(call.id, self._channel.send, content=call.trace_content)
        join(call.trace)
        current.set(scope)
        waiting.set(self._waiting)
        results.set(self._results)
        started = time.monotonic()
        running.begun = True
        error: DspexError | None = None
        result: Payload = b""
        try:
            running.check()
            pieces = await self._commands.run(call, args)
            check_result(sum(map(len, pieces)), self._max_result)
            result = await astore(pieces) if is_heavy(pieces) else store(pieces)
            del pieces
        except asyncio.CancelledError as raised:
            if self._ended.is_set():
                error = running.stop or Cancelled("the worker is shutting down")
            else:
                error = running.stop or faults.translate(raised, self.lms.secrets())
        except BaseException as raised:  # noqa: BLE001 (SystemExit of user code is a failed call, too)
            error = running.stop or faults.translate(raised, self.lms.secrets())
        if running.timer is not None:
            running.timer.cancel()
        del self.running[call.id]
        self.done += 1
        seconds = time.monotonic() - started
        discard(args)
        if scope.spans is not None:
            scope.spans.flush()
        if error is None:
            value = NOTHING if isinstance(result, Blob) else msgspec.Raw(result)
            blob = result if isinstance(result, Blob) else None
            self._channel.send(Result(call.id, value, seconds), blob)
        else:
            discard(result)
            if scope.tool_calls:  # what a failed call has done all the same
                # An error goes further than an answer: what the tools were given stays out of it.
                done = [{k: v for k, v in one.items() if k != "arguments"} for one in scope.tool_calls]
                error.details.setdefault("tool_calls", done)
            self._send_fault(Fault(call.id, error.to_wire(), seconds))

    def _send_fault(self, fault: Fault) -> None:
        try:
            self._channel.send(fault)
        except Exception:  # noqa: BLE001 (whatever the user's code put into it)
            # Its details cannot travel; the failure itself has to.
            bare = {"code": fault.error["code"], "message": ascii(fault.error["message"])[:2000]}
            self._channel.send(Fault(fault.id, bare, fault.seconds))


_PONG = msgspec.Raw(b"\xa4pong")
