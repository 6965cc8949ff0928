"""The supervisor's view of one worker."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from dspex.lm.gate import Gates
from dspex.lm.limits import Permit
from dspex.pool.permits import WorkerPermits
from dspex.pool.work import Work
from dspex.pool.zygote_client import Forkling
from dspex.process import forks, limits
from dspex.process.group import kill_group
from dspex.wire.blobs import Blob
from dspex.wire.channel import Channel
from dspex.wire.messages import (
    NOTHING,
    PROTOCOL,
    Beat,
    Call,
    Cancel,
    DropLM,
    Fault,
    FromWorker,
    LmAsk,
    LmDone,
    Ready,
    Result,
    Shutdown,
    UseLM,
    Watch,
    read_from_worker,
)

_LMS_KEPT = 256
_PROGRAMS_KEPT = 256
# How long a dead worker's exit status may be late before its calls are settled without it.
_STATUS_WAIT = 0.1


class WorkerHandle:
    """One worker: what it runs, and how to reach and to end it.

    Attributes:
        number: Its number in the pool.
        pid: Its pid.
        state: ``starting``, ``ready``, ``stopping`` or ``dead``; ``busy`` is ready with no free slot.
        in_flight: What it runs, by the call's number.
        done: How many calls it has ended.
        was_ready: Whether it ever said that it was ready.
        killed_for: Why this supervisor killed it, if it did.
    """

    def __init__(
        self,
        forkling: Forkling,
        *,
        slots: int,
        limit: int,
        max_result: int,
        gates: Gates,
        on_ready: Callable[[WorkerHandle], None],
        on_answer: Callable[[WorkerHandle, Work | None, Result | Fault, Blob | None], None],
        on_death: Callable[[WorkerHandle, int | None], None],
        on_drained: Callable[[], None],
    ) -> None:
        self.number = forkling.number
        self.pid = forkling.pid
        self.in_flight: dict[int, Work] = {}
        self.done = 0
        self.was_ready = False
        self.killed_for: str | None = None
        self.dead = asyncio.Event()
        self._state = "starting"
        self._slots = slots
        self._on_ready = on_ready
        self._on_answer = on_answer
        self._on_death = on_death
        self._kill = forkling.kill
        self._pidfd = forkling.pidfd
        self._lifeline = forkling.lifeline
        self._outputs = forkling.outputs
        self._next = 1
        self._lms: OrderedDict[int, int] = OrderedDict()  # number → gate, the last used last
        self._warm: OrderedDict[bytes, None] = OrderedDict()
        self._loop = asyncio.get_running_loop()
        self._channel: Channel[FromWorker] = Channel(
            forkling.sock,
            read_from_worker,
            on_message=self._on_message,
            on_close=self._on_channel_end,
            limit=limit,
            blob_limit=max_result,
            on_drained=on_drained,
        )
        self._gates = gates
        self._permits = WorkerPermits(gates, self._channel.send)
        self._loop.add_reader(self._pidfd, self._on_exit)
        forks.guard(self)

    @property
    def state(self) -> str:
        """See the class."""
        return "busy" if self._state == "ready" and len(self.in_flight) >= self._slots else self._state

    @property
    def free(self) -> bool:
        """Whether it can be given a call now."""
        return self._state == "ready" and len(self.in_flight) < self._slots and not self._channel.congested

    @property
    def rss(self) -> int:
        """Its resident memory in bytes."""
        return limits.resident_bytes(self.pid)

    def is_warm(self, fingerprint: bytes) -> bool:
        """Whether it has this program built, as far as known here."""
        return fingerprint in self._warm

    def start(self, work: Work, permit: Permit | None) -> None:
        """Give it a call, with the permit for its first LM request if it has an LM.

        Raises:
            PayloadTooLarge: The message would be too large.
        """
        number = self._next
        self._next += 1
        self.in_flight[number] = work
        work.number, work.worker = number, self
        seat = 0
        if work.gate is not None and permit is not None:
            seat = self._permits.give_seat(number, work.gate, permit)
        if work.lm is not None:
            self._introduce(work)
        if work.fingerprint:
            self._warm[work.fingerprint] = None
            self._warm.move_to_end(work.fingerprint)
            if len(self._warm) > _PROGRAMS_KEPT:
                self._warm.popitem(last=False)
        work.attempts += 1
        work.started = time.monotonic()
        blob, args = None, NOTHING
        if isinstance(work.args, Blob):
            try:
                blob = work.args.copy()
            except OSError:  # no descriptor is free: slower, but it goes
                args = msgspec.Raw(work.args.read())
        else:
            args = msgspec.Raw(work.args)
        self._channel.send(
            Call(
                number,
                work.command,
                work.deadline,
                args,
                msgspec.Raw(work.program),
                work.fingerprint,
                work.lm_number,
                seat,
            ),
            blob,
        )

    def _introduce(self, work: Work) -> None:
        """Tell it the call's LM, if it was not told before."""
        if work.lm_number in self._lms:
            self._lms.move_to_end(work.lm_number)
            return
        assert work.lm is not None
        self._channel.send(UseLM(work.lm_number, work.lm))
        for spec in (work.lm, work.lm.extraction):
            gate = self._gates.find(spec.gate) if spec is not None else None
            if gate is not None and gate.watched and not gate.limited:
                self._channel.send(Watch(gate.number, on=True))
        self._lms[work.lm_number] = work.lm.gate
        self._drop_lms()

    def _drop_lms(self) -> None:
        """Have it close the connections of LMs that are too many, or whose profile has another key by now."""
        newest = {gate: number for number, gate in sorted(self._lms.items())}
        old = [number for number, gate in self._lms.items() if number < newest[gate]]
        old += list(self._lms)[: max(0, len(self._lms) - _LMS_KEPT)]
        # A drop may overtake a call that has not begun, so an LM in use stays until the next look.
        used = {running.lm_number for running in self.in_flight.values()}
        for number in {*old} - used:
            del self._lms[number]
            self._channel.send(DropLM(number))

    def not_started(self, work: Work) -> None:
        """A call could not be sent after all."""
        self.in_flight.pop(work.number, None)
        self._permits.end_call(work.number)
        work.worker = None

    def watch(self, gate: int, *, on: bool) -> None:
        """Tell it whether LM requests have to ask at a gate."""
        if self._state in {"starting", "ready"}:
            self._channel.send(Watch(gate, on))

    def cancel(self, work: Work) -> None:
        """Ask it to stop a call that it runs."""
        self._channel.send(Cancel(work.number))

    def stop(self) -> None:
        """Ask it to exit."""
        if self._state in {"starting", "ready"}:
            self._state = "stopping"
            self._channel.send(Shutdown())

    def kill(self, reason: str) -> None:
        """SIGKILL it; its zygote sweeps what it had started. It counts as gone from now on."""
        if self._state != "dead" and self.killed_for is None:
            self.killed_for = reason
            self._state = "stopping"
            self._kill()

    # What it says

    def _on_message(self, message: FromWorker, blob: Blob | None) -> None:
        if blob is not None and not isinstance(message, Result):
            blob.close()
            self.kill(f"it sent a blob with a {type(message).__name__}")
            return
        match message:
            case Result() | Fault():
                self.done += 1
                self._permits.end_call(message.id)
                self._on_answer(self, self.in_flight.pop(message.id, None), message, blob)
            case LmDone():
                self._permits.done(message, self.in_flight.get(message.call))
            case LmAsk():
                self._permits.asked(message)
            case Beat():
                pass
            case Ready(protocol=protocol):
                if protocol != PROTOCOL:
                    self.kill(f"it speaks protocol {protocol} and not {PROTOCOL}")
                elif self._state == "starting":
                    self._state = "ready"
                    self.was_ready = True
                    self._on_ready(self)

    def _on_channel_end(self, reason: str | None) -> None:
        # The end of the channel is not by itself the sign of death, and a death is not by itself the
        # channel's fault: a worker that still lives in a moment has closed or garbled it, and is ended.
        if self._state in {"starting", "ready"}:
            self._state = "stopping"
        self._loop.call_later(_STATUS_WAIT, self.kill, reason or "it closed its channel")

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._loop.call_later(_STATUS_WAIT, self.buried, None)

    def buried(self, status: int | None) -> None:
        """It is dead. Deliver what it had finished, then let the pool settle the rest. Safe to repeat."""
        if self._state == "dead":
            return
        self._channel.read_to_end()
        self._state = "dead"
        self._loop.remove_reader(self._pidfd)
        self._channel.close()
        self._lifeline.cut()
        forks.close_descriptor(self._pidfd)
        self._pidfd = -1
        if status is None:
            kill_group(self.pid)  # no zygote has told of its end, so none may have swept its group
        try:
            for output in self._outputs:
                output.read_to_end()
            self._permits.lose(time.monotonic())
        finally:
            self.dead.set()
            self._on_death(self, status)

    def close_after_fork(self) -> None:
        """In a forked copy: the worker serves the process that started it."""
        self._state = "dead"
        self._channel.close_after_fork()
        forks.close_descriptor(self._pidfd)
        self._pidfd = -1
