"""Workers without processes, which do what a test tells them, on the other end of a real channel.

Only the process is not there: socket, messages and handshake are the real ones.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from dspex.errors import Cancelled, PythonTimeout
from dspex.pool.zygote_client import Forkling
from dspex.process.lifeline import Lifeline
from dspex.types import LMRequest, Usage
from dspex.wire.blobs import Blob
from dspex.wire.channel import Channel
from dspex.wire.messages import (
    NOTHING,
    PROTOCOL,
    Beat,
    Call,
    Cancel,
    Fault,
    Knock,
    LmAsk,
    LmDone,
    LmGo,
    Ready,
    Result,
    Shutdown,
    ToWorker,
    WorkerOptions,
    read_by_worker,
)

# Above what the kernel gives out, so that it can be nobody's.
_NO_PID = 2**22 + 1
KILLED = -9


@dataclass(eq=False)
class Held:
    """A call that a worker runs.

    Attributes:
        call: As it was sent.
        name: What the test calls it.
        has_seat: Whether it has the permit for its first request still.
        asks: Its requests that wait for a permit.
        granted: Its requests that are under way.
    """

    call: Call
    name: int
    has_seat: bool
    asks: set[int] = field(default_factory=set)
    granted: set[int] = field(default_factory=set)


class FakeWorker:
    """One worker. What it does by itself can be changed at any time.

    Attributes:
        obeys: Whether it stops calls when it is told to, and at their deadlines.
        beats: Whether it answers knocks; one whose loop is blocked does not, and obeys nothing.
        exits: Whether it exits when it is asked to.
        tells: Whether its zygote tells of its death.
        rss: Its resident memory.
    """

    def __init__(
        self,
        number: int,
        options: WorkerOptions,
        sock: socket.socket,
        death: int,
        on_exit: Callable[[int, int | None], None],
        log: list[tuple[int, int]],
    ) -> None:
        self.number = number
        self.options = options
        self.held: dict[int, Held] = {}
        self.alive = True
        self.obeys = self.beats = self.exits = self.tells = True
        self.rss = 60 * 2**20
        self._log = log
        self._death = death
        self._on_exit = on_exit
        self._next_ask = 1
        self._loop = asyncio.get_running_loop()
        self.channel: Channel[ToWorker] = Channel(
            sock,
            read_by_worker,
            on_message=self._on_message,
            on_close=lambda _reason: None,
            limit=2**20,
        )

    def ready(self, protocol: int = PROTOCOL) -> None:
        """Say that it is ready."""
        self.channel.send(Ready(protocol))

    def _on_message(self, message: ToWorker, blob: Blob | None) -> None:
        assert blob is None
        match message:
            case Call():
                name = msgspec.msgpack.decode(message.args)
                self.held[message.id] = Held(message, name, message.seat != 0)
                self._log.append((name, self.number))
                if message.deadline is not None:
                    self._loop.call_at(message.deadline, self._on_deadline, message.id)
            case Cancel(id=number) if self.obeys and self.beats:
                if number in self.held:
                    self.fail(self.held[number], Cancelled("the caller went away").to_wire())
            case Knock() if self.beats:
                self.channel.send(Beat())
            case LmGo(ask=ask):
                for held in self.held.values():
                    if ask in held.asks:
                        held.asks.remove(ask)
                        held.granted.add(ask)
                        return
                self.channel.send(LmDone(0, ask, 0, None, "cancelled"))  # its call is gone
            case Shutdown() if self.exits and self.beats:
                self.die(0)

    def _on_deadline(self, number: int) -> None:
        held = self.held.get(number)
        if held is not None and self.alive and self.obeys and self.beats:
            self.fail(held, PythonTimeout("the deadline passed").to_wire())

    def answer(self, held: Held) -> None:
        """End a call well."""
        self._end_requests(held)
        del self.held[held.call.id]
        self.channel.send(Result(held.call.id, NOTHING, 0.1))

    def answer_twice(self, held: Held) -> None:
        """End it, and once more."""
        self.answer(held)
        self.channel.send(Result(held.call.id, NOTHING, 0.1))

    def fail(self, held: Held, error: dict[str, object]) -> None:
        """End a call with an error."""
        self._end_requests(held)
        del self.held[held.call.id]
        self.channel.send(Fault(held.call.id, error, 0.1))

    def _end_requests(self, held: Held) -> None:
        for ask in held.asks | held.granted:
            self.channel.send(LmDone(held.call.id, ask, held.call.seat, None, "cancelled"))
        held.asks, held.granted = set(), set()

    def use_seat(self, held: Held, gate: int, now: float, status: str = "ok") -> None:
        """Make the first request and have its answer."""
        held.has_seat = False
        usage = Usage(3, 4) if status == "ok" else Usage()
        record = LMRequest("openai/x", usage, 0.1, status)
        self.channel.send(LmDone(held.call.id, -1, gate, now, status, None, record))

    def ask(self, held: Held, gate: int) -> None:
        """Ask for another request."""
        self.channel.send(LmAsk(held.call.id, self._next_ask, gate, 10))
        held.asks.add(self._next_ask)
        self._next_ask += 1

    def settle(self, held: Held, gate: int, now: float, status: str = "ok") -> None:
        """Have the answer to a request that was granted."""
        ask = held.granted.pop()
        record = LMRequest("openai/x", Usage(3, 4), 0.1, status)
        self.channel.send(LmDone(held.call.id, ask, gate, now, status, None, record))

    def die(self, status: int | None = KILLED) -> None:
        """Be dead: the channel ends, the descriptor is readable, the zygote tells, unless it is dead, too."""
        if self.alive:
            self.alive = False
            self.held.clear()
            self.channel.close()
            os.eventfd_write(self._death, 1)
            os.close(self._death)
            if self.tells and status is not None:
                self._loop.call_soon(self._on_exit, self.number, status)


@dataclass(frozen=True)
class FakeForkling(Forkling):
    """What the pool knows of a fake worker's process."""

    worker: FakeWorker

    def kill(self) -> None:
        """It dies at once."""
        self.worker.die()

    def rss(self) -> int:
        """As the test says."""
        return self.worker.rss


class FakeZygote:
    """Where fake workers come from.

    Attributes:
        workers: All that were ever forked.
        born: What a new worker does: gets ready by itself, or waits to be told, or dies.
        refusals: What the next forks raise.
        log: Which call was given to which worker, in order.
    """

    def __init__(self) -> None:
        self.workers: list[FakeWorker] = []
        self.born: Callable[[FakeWorker], None] = FakeWorker.ready
        self.refusals: list[Exception] = []
        self.log: list[tuple[int, int]] = []

    @property
    def living(self) -> list[FakeWorker]:
        """Those who live."""
        return [worker for worker in self.workers if worker.alive]

    async def fork(self, options: WorkerOptions, on_exit: Callable[[int, int | None], None]) -> Forkling:
        """A worker, or a refusal."""
        if self.refusals:
            raise self.refusals.pop(0)
        number = len(self.workers) + 1
        ours, theirs = socket.socketpair()
        pidfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        worker = FakeWorker(number, options, theirs, os.dup(pidfd), on_exit, self.log)
        self.workers.append(worker)
        lifeline = Lifeline()
        lifeline.handed_over()
        self.born(worker)
        return FakeForkling(number, _NO_PID + number, pidfd, ours, lifeline, (), worker)

    async def aclose(self) -> None:
        """All of them are dead."""
        for worker in self.living:
            worker.die()
