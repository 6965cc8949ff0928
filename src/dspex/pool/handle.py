"""The supervisor's view of one worker."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from dspex.lm.gates import Gates
from dspex.lm.limits import Permit
from dspex.pool.callbacks import CallbackRoute
from dspex.pool.introductions import Introductions
from dspex.pool.lifespan import Lifespan
from dspex.pool.listener import Listener
from dspex.pool.permits import WorkerPermits
from dspex.pool.pulse import Pulse
from dspex.pool.work import Work
from dspex.pool.zygote_client import Forkling
from dspex.process import forks
from dspex.process.group import kill_group, reap_group
from dspex.telemetry.logs import named
from dspex.wire.blobs import Blob
from dspex.wire.channel import Channel
from dspex.wire.messages import (
    NOTHING,
    PROTOCOL,
    Beat,
    Cancel,
    Chunk,
    Fault,
    FromWorker,
    Knock,
    LmAsk,
    LmDone,
    Ready,
    Result,
    Shutdown,
    Spans,
    ToolCall,
    Watch,
    read_from_worker,
)

# How long a dead worker's exit status may be late before its calls are settled without it.
_STATUS_WAIT = 0.1
# How often it is looked, at that interval, whether what a dead worker had started is dead too.
_REAPINGS = 50
# How long one that was asked to exit may take for it.
_EXIT_WAIT = 1.0
# Seconds in which a forked worker has to be ready; it is, within 20 ms, unless a preload hangs.
_START_LIMIT = 60.0


class WorkerHandle:
    """One worker: what it runs, and how to reach and to end it.

    Attributes:
        number: Its number in the pool.
        pid: Its pid.
        state: ``starting``, ``ready``, ``draining``, ``stopping`` or ``dead``; ``busy`` is ready with no
            free slot.
        in_flight: What it runs, by the call's number. A call whose caller has its answer already stays until
            the worker is done with it.
        done: How many calls it has ended.
        lifespan: How long it may go on.
        born: Monotonic second of its fork.
        idle_since: Monotonic second since which it runs nothing; None while it does.
        was_ready: Whether it ever said that it was ready.
        installed: What its DSPy has of the table of modules, encoded.
        cause: Why it ends or has ended, as in ``PoolStats.restarts``; None while it goes on.
        reason: The same for people, where there is more to say.
        retiring: Why it will be replaced; None when it will not.
        killed: Whether it was killed from here.
        on_probation: Whether it is ready, and has to live for a while before it is trusted with calls.
        pulse: Whether its event loop turns.
        blocked: Whether its event loop did not turn when it was killed: any of its calls may be to blame.
    """

    def __init__(
        self,
        forkling: Forkling,
        *,
        slots: int,
        limit: int,
        max_result: int,
        gates: Gates,
        lifespan: Lifespan,
        listener: Listener,
    ) -> None:
        self.lifespan = lifespan
        self.number = forkling.number
        self.pid = forkling.pid
        self.in_flight: dict[int, Work] = {}
        self.done = 0
        self.born = time.monotonic()
        self.idle_since: float | None = self.born
        self.was_ready = False
        self.installed = NOTHING
        self.cause: str | None = None
        self.reason: str | None = None
        self.retiring: str | None = None
        self.killed = False
        self.on_probation = False
        self.pulse = Pulse()
        self.blocked = False
        self.dead = asyncio.Event()
        self._state = "starting"
        self._doomed = False
        self._slots = slots
        self._told = listener
        self._forkling = forkling
        self._pidfd = forkling.pidfd
        self._next = 1
        self._exited = False
        self._execution: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._channel: Channel[FromWorker] = Channel(
            forkling.sock,
            read_from_worker,
            on_message=self._on_message,
            on_close=self._on_channel_end,
            limit=limit,
            blob_limit=max_result,
            on_drained=listener.writable,
        )
        self._permits = WorkerPermits(gates, self._channel.send)
        self._route = CallbackRoute(self.in_flight, self._channel.send, listener.strayed)
        self._knows = Introductions(gates, self._channel.send)
        for output in forkling.outputs:
            output.of_calls(self.whose)
        self._loop.add_reader(self._pidfd, self._on_exit)
        self._kill_in(_START_LIMIT, "start", f"not ready within {_START_LIMIT:g} s")
        forks.guard(self)

    @property
    def state(self) -> str:
        """See the class."""
        if self.on_probation and self._state == "ready":
            return "starting"
        return "busy" if self._state == "ready" and len(self.in_flight) >= self._slots else self._state

    @property
    def serving(self) -> bool:
        """Whether it takes calls, or will in a moment."""
        return self._state in {"starting", "ready"}

    @property
    def free(self) -> bool:
        """Whether it can be given a call now."""
        return (
            self._state == "ready"
            and not self.on_probation
            and not self.pulse.stalled
            and len(self.in_flight) < self._slots
            and not self._channel.congested
            and not self._channel.gone
        )

    @property
    def rss(self) -> int:
        """Its resident memory in bytes."""
        return self._forkling.rss()

    @property
    def unanswered(self) -> int:
        """How many of its calls still wait for their end."""
        return sum(not work.ended for work in self.in_flight.values())

    def whose(self) -> dict[str, Any]:
        """The calls that it runs, as a line about it has them."""
        return named([work.request_id for work in self.in_flight.values()])

    def is_warm(self, fingerprint: bytes) -> bool:
        """Whether it has this program built, as far as known here."""
        return self._knows.has_program(fingerprint)

    # Calls

    def start(self, work: Work, permit: Permit | None) -> None:
        """Give it a call, with the permit for its first LM request if it has an LM.

        Raises:
            PayloadTooLarge: The message would be too large.
        """
        number = self._next
        self._next += 1
        self.in_flight[number] = work
        self.idle_since = None
        work.number, work.worker = number, self
        seat = 0
        if work.gate is not None and permit is not None:
            seat = self._permits.give_seat(number, work.gate, permit, asks=work.purse is not None)
        self._knows.introduce(work, self.in_flight.values())
        work.attempts += 1
        work.started = time.monotonic()
        credit = self._route.begun(self.number, number, work)
        trace = "" if work.trace is None else work.trace.begun(self.number, self.pid)
        self._channel.send(*work.message(seat, credit, trace))
        work.unsent = self._channel.gone
        if work.said is not None:
            self._told.started(self, work)

    def not_started(self, work: Work) -> None:
        """A call could not be sent after all."""
        self._permits.end_call(work.number)
        self._forget(work.number)

    def _forget(self, number: int) -> Work | None:
        work = self.in_flight.pop(number, None)
        if not self.in_flight and self.idle_since is None:
            self.idle_since = time.monotonic()
        return work

    def cancel(self, work: Work) -> None:
        """Ask it to stop a call that it runs."""
        self._channel.send(Cancel(work.number))

    def watch(self, gate: int, *, on: bool) -> None:
        """Tell it whether LM requests have to ask at a gate."""
        if self._state in {"starting", "ready", "draining"}:
            self._channel.send(Watch(gate, on))

    def knock(self) -> None:
        """Ask whether its event loop turns, unless it was asked and has not answered yet."""
        if self._state in {"ready", "draining"} and self.pulse.knock():
            self._channel.send(Knock())

    def listen(self) -> None:
        """Read what it has said by now: it may be this process that is late, and not the worker."""
        self._channel.read_now()

    # Its end

    def drain(self, cause: str) -> None:
        """Give it no more calls, and have it exit when those that it runs have ended."""
        if self.serving and not self.in_flight:
            self.stop(cause)
        elif self.serving:
            self._state = "draining"
            self.cause = cause
            self._told.draining(self)

    def condemn(self, cause: str, limit: float, work: Work, *, knocked: float) -> None:
        """A call does not stop: kill this worker when its other calls have ended, or after ``limit`` seconds.

        One whose event loop is blocked, or that runs nothing else, is killed now.

        Args:
            cause: Why.
            limit: The longest wait for the other calls.
            work: The call.
            knocked: Monotonic second of a knock; one that has not beaten since is blocked.
        """
        if self._state in {"stopping", "dead"}:
            return
        self.blocked = not self.pulse.has_beaten_since(knocked)
        if self.blocked or not any(not other.ended for other in self.in_flight.values() if other is not work):
            self.kill(cause)
            return
        if not self._doomed:
            self._doomed = True
            self._kill_in(limit, cause)
        self.cause = cause
        if self.serving:
            self._state = "draining"
            self._told.draining(self)

    def _leave_if_done(self) -> None:
        if self._state != "draining":
            return
        if self._doomed and self.cause is not None:
            if not self.unanswered:
                self.kill(self.cause)
        elif not self.in_flight:
            self.stop(self.cause or "closing")

    def stop(self, cause: str) -> None:
        """Ask it to exit now, and see that it does."""
        if self._state in {"starting", "ready", "draining"}:
            self._state = "stopping"
            self.cause = cause
            self._channel.send(Shutdown())
            self._kill_in(_EXIT_WAIT, cause)

    def _kill_in(self, seconds: float | None, cause: str = "", reason: str | None = None) -> None:
        """Kill it after so many seconds, and not when it was to be killed before; None is never."""
        if self._execution is not None:
            self._execution.cancel()
        kill = self.kill
        self._execution = None if seconds is None else self._loop.call_later(seconds, kill, cause, reason)

    def kill(self, cause: str, reason: str | None = None) -> None:
        """SIGKILL it; its zygote sweeps what it had started. It counts as gone from now on."""
        if self._state != "dead" and not self.killed:
            self.killed = True
            # Who was asked to exit did not fail by being slow at it.
            self.cause = cause if self._state != "stopping" or self.cause is None else self.cause
            self.reason = reason
            self._state = "stopping"
            self._forkling.kill()

    # What it says

    def _on_message(self, message: FromWorker, blob: Blob | None) -> None:
        if blob is not None and not isinstance(message, Result | ToolCall):
            blob.close()
            self.kill("channel", f"it sent a blob with a {type(message).__name__}")
            return
        match message:
            case Result() | Fault():
                self.done += 1
                self._permits.end_call(message.id)
                self._told.answered(self, self._forget(message.id), message, blob)
                self._leave_if_done()
            case Chunk():
                self._route.told(message)
            case Spans():
                self._route.traced(message)
            case LmDone() | LmAsk():
                self._on_request(message)
            case ToolCall():
                self._route.asked(message, blob)
            case Beat():
                stalled = self.pulse.stalled
                self.pulse.beat()
                if stalled:  # it was given no calls meanwhile
                    self._told.writable()
            case Ready(protocol=protocol, installed=installed):
                if protocol != PROTOCOL:
                    self.kill("channel", f"it speaks protocol {protocol} and not {PROTOCOL}")
                elif self._state == "starting":
                    self._state = "ready"
                    self.was_ready = True
                    self.installed = installed
                    self._kill_in(None)
                    self.idle_since = time.monotonic()
                    self._told.ready(self)

    def _on_request(self, message: LmDone | LmAsk) -> None:
        work = self.in_flight.get(message.call)
        if isinstance(message, LmAsk):
            self._permits.asked(message, work)
            return
        self._permits.done(message, work)
        if message.record is not None:
            self._told.requested(message.record)

    def _on_channel_end(self, reason: str | None) -> None:
        # The end of the channel is not by itself the sign of death, and a death is not by itself the
        # channel's fault: a worker that still lives in a moment has closed or garbled it, and is ended.
        if self._state not in {"starting", "ready", "draining"}:
            return  # it was asked to, and is waited for
        self._state = "stopping"
        self._loop.call_later(_STATUS_WAIT, self._end_mute, reason or "it closed its channel")

    def _end_mute(self, reason: str) -> None:
        if not self._exited:
            self.kill("channel", reason)

    def _on_exit(self) -> None:
        self._exited = True
        self._loop.remove_reader(self._pidfd)
        self._loop.call_later(_STATUS_WAIT, self.buried, None)

    def buried(self, status: int | None) -> None:
        """It is dead. Deliver what it had finished, then let the pool settle the rest. Safe to repeat."""
        if self._state == "dead":
            return
        self._channel.read_to_end()
        self._state = "dead"
        self._kill_in(None)
        self._loop.remove_reader(self._pidfd)
        self._channel.close()
        self._forkling.lifeline.cut()
        if status is None:
            # No zygote has told of its end, so none may have swept its group, nor reaped it: as pid 1, or a
            # subreaper, this process has inherited all of it.
            kill_group(self.pid)
            self._reap_group(_REAPINGS)
        forks.close_descriptor(self._pidfd)
        self._pidfd = -1
        try:
            for output in self._forkling.outputs:
                output.read_to_end()
            self._permits.lose(time.monotonic())
        finally:
            self.dead.set()
            self._told.dead(self, status)

    def _reap_group(self, times: int) -> None:
        # What the worker had started was inherited with it, and takes a moment to die.
        if reap_group(self.pid) and times > 0:
            self._loop.call_later(_STATUS_WAIT, self._reap_group, times - 1)

    def close_after_fork(self) -> None:
        """In a forked copy: the worker serves the process that started it."""
        self._state = "dead"
        self._channel.close_after_fork()
        forks.close_descriptor(self._pidfd)
        self._pidfd = -1
