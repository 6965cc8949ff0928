"""One call on its way through the pool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from dspex.errors import DspexError, PythonTimeout
from dspex.lm.budget import Purse
from dspex.lm.gate import Gate
from dspex.lm.limits import Permit
from dspex.types import FallenBack, LMRequest, LMSpec, SpanRecord
from dspex.wire.blobs import Blob
from dspex.wire.messages import NOTHING, Call, Chunk, ToolCall, ToolResult
from dspex.wire.payloads import Payload

if TYPE_CHECKING:
    from dspex.pool.handle import WorkerHandle
    from dspex.pool.pool import LocalPool
    from dspex.pool.tally import Tally


class Callbacks(Protocol):
    """The functions of a call's caller. Used on the pool's loop, which they must never hold up."""

    def call(
        self,
        message: ToolCall,
        args: msgspec.Raw | Blob,
        answer: Callable[[ToolResult, Blob | None], None],
    ) -> bool:
        """Begin to run a function.

        Args:
            message: Which.
            args: Its encoded arguments, to be let go of.
            answer: Told what it gave, once, on this loop; not after ``stop``.

        Returns:
            Whether the call may still run again when its worker is lost.
        """

    def stop(self) -> None:
        """No worker waits for them any more: what can be stopped is. Safe to repeat.

        What is called after this belongs to another attempt.
        """


class Flow(Protocol):
    """Where the chunks of a call that streams go. Used on the pool's loop, which it must never hold up."""

    def begun(self, worker: int, grant: Callable[[int], None]) -> int:
        """A worker has the call.

        Args:
            worker: Its number.
            grant: Allows that worker so many deltas more; on this loop.

        Returns:
            How many deltas it may send at first.
        """

    def came(self, chunk: Chunk) -> None:
        """The worker has told something."""

    def again(self, why: str) -> None:
        """The call is given to a worker once more, and this is why."""


class Trace(Protocol):
    """Who traces a call. Used on the pool's loop, which it must never hold up.

    Attributes:
        content: Whether spans are to have what was said.
    """

    content: bool

    def waits(self) -> None:
        """The call waits for a worker."""

    def begun(self, worker: int, pid: int) -> str:
        """A worker has it; gives what that worker's spans belong in, as W3C's ``traceparent``."""

    def came(self, records: Sequence[SpanRecord]) -> None:
        """Its worker has told of spans."""

    def stopped(self, error: str | None) -> None:
        """Its worker runs it no more: it has answered, or failed with this code."""


class Lane(NamedTuple):
    """One tenant's calls with one LM.

    Attributes:
        tenant: The tenant; empty when nobody said.
        gate: Number of the LM's gate; 0 for calls without one.
    """

    tenant: str
    gate: int


@dataclass(frozen=True, slots=True)
class Done:
    """What a call came back with.

    Attributes:
        value: The result, still encoded; a blob is closed by who reads it.
        requests: The LM requests that were made for it, those of workers that were lost included.
        worker: Number of the worker that answered.
        attempts: How many workers it was given to.
        queued: Seconds that it waited for a slot.
        seconds: How long the worker ran it.
        cached: Whether it came from the cache: then no worker had it, and no LM was asked.
        model: The model that had given an answer from the cache.
        fallbacks: The LMs that did not answer before the one that did.
        asked: The model that an answer from the cache was once asked of, as its LM is named.
    """

    value: msgspec.Raw | Blob
    requests: list[LMRequest]
    worker: int
    attempts: int
    queued: float
    seconds: float
    cached: bool = False
    model: str | None = None
    fallbacks: tuple[FallenBack, ...] = ()
    asked: str | None = None


@dataclass(slots=True, eq=False)
class Work:
    """A call, from its admission to its one end.

    Attributes:
        command: The worker's command.
        args: Its encoded arguments; a blob stays open until the call's one end, for it may be sent to a
            second worker.
        deadline: Monotonic second at which it has to stop; None never.
        program: The encoded program spec, if it runs one.
        fingerprint: What workers keep that program by.
        lm_number: The LM's number in this runtime; 0 is none.
        lm: The LM itself, for workers that have not heard of it.
        gate: The gate of that LM; None without one.
        tenant: Whose call it is, for taking turns; empty when nobody said.
        batch: Whether interactive calls go before it.
        repeatable: Whether it may run again when its worker was lost in the middle.
        debug: Whether its answer is to have the messages of its LM requests.
        callbacks: Its caller's functions; None when it has none to call.
        flow: Where its chunks go; None of a call that does not stream.
        purse: The budgets that its LM requests are paid from; None without any.
        trace: Who traces it; None when nobody does.
        said: What events say of it; None when nobody wants to hear that a worker has it.
        request_id: Its name in log lines; empty of what no caller has asked for.
        waited_from: Monotonic second since which it waited for its slot; None is since it was admitted. A
            call that another LM has failed waits anew.
        future: Gets the ``Done`` or the error.
        attempts: How many workers it was given to.
        reruns_left: How many more times it may be lost for reasons that may lie in this call.
        was_shot: Whether a worker that had it was killed by somebody.
        deaths_alone: How many of these it died alone with.
        pool: The pool that has it; that may be another one than it was made to.
        tally: Where its end is counted: that of the pool it was made to.
        seat: The permit for its first LM request, from the moment it may begin until a worker has it.
        requests: The LM requests that it has made.
        worker: The worker that runs it; None while it waits.
        number: Its number on that worker's channel.
        timer: Fires at its deadline, then at the end of its grace.
        waits: Whether a queue counts it.
        unsent: Whether the worker that it was given to was dead already, so that nobody has seen it.
    """

    command: str
    args: Payload
    deadline: float | None = None
    program: bytes = b"\xc0"
    fingerprint: bytes = b""
    lm_number: int = 0
    lm: LMSpec | None = None
    gate: Gate | None = None
    tenant: str = ""
    batch: bool = False
    repeatable: bool = False
    debug: bool = False
    callbacks: Callbacks | None = None
    flow: Flow | None = None
    purse: Purse | None = None
    trace: Trace | None = None
    said: Mapping[str, Any] | None = None
    request_id: str = ""
    future: asyncio.Future[Done] = field(init=False)
    admitted: float = field(default_factory=time.monotonic)
    waited_from: float | None = None
    started: float | None = None
    attempts: int = 0
    reruns_left: int = 0
    was_shot: bool = False
    deaths_alone: int = 0
    pool: LocalPool = field(init=False)
    tally: Tally = field(init=False)
    seat: Permit | None = None
    requests: list[LMRequest] = field(default_factory=list)
    worker: WorkerHandle | None = None
    number: int = 0
    timer: asyncio.TimerHandle | None = None
    waits: bool = False
    unsent: bool = False

    @property
    def lane(self) -> Lane:
        """Which line it waits in."""
        return Lane(self.tenant, self.gate.number if self.gate is not None else 0)

    @property
    def overdue(self) -> bool:
        """Whether its deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def age(self) -> float:
        """Seconds since it was admitted."""
        return time.monotonic() - self.admitted

    def queued(self) -> float:
        """Seconds that it has waited for a slot."""
        begun = time.monotonic() if self.started is None else self.started
        return begun - (self.admitted if self.waited_from is None else self.waited_from)

    def time_left(self) -> float:
        """Seconds to its deadline, which it has; a millisecond more, so that a timer never fires early."""
        return (self.deadline or 0.0) - time.monotonic() + 0.001

    @property
    def ended(self) -> bool:
        """Whether it has had its one end."""
        return self.future.done()

    def refusal(self) -> DspexError | None:
        """Why it must not begin: its LM is left alone, or a budget is spent; None when it may."""
        refusal: DspexError | None = None if self.gate is None else self.gate.refusal()
        if refusal is None and self.purse is not None:
            refusal = self.purse.refusal()
        return refusal

    def message(self, seat: int, credit: int | None, trace: str) -> tuple[Call, Blob | None]:
        """What tells a worker to run it, with the blob that goes beside.

        Args:
            seat: Number of the permit for its first LM request; 0 is none.
            credit: How many deltas it may send at first; None of a call that does not stream.
            trace: What its spans belong in, as W3C's ``traceparent``; empty when nobody traces it.
        """
        blob, args = None, NOTHING
        if isinstance(self.args, Blob):
            try:
                blob = self.args.copy()
            except OSError:  # no descriptor is free: slower, but it goes
                args = msgspec.Raw(self.args.read())
        else:
            args = msgspec.Raw(self.args)
        call = Call(
            self.number,
            self.command,
            self.deadline,
            args,
            msgspec.Raw(self.program),
            self.fingerprint,
            self.lm_number,
            seat,
            self.debug,
            credit,
            self.purse is not None,
            trace,
            self.trace is not None and self.trace.content,
        )
        return call, blob

    def stop_callbacks(self) -> None:
        """No worker waits for its caller's functions any more."""
        if self.callbacks is not None:
            self.callbacks.stop()

    @property
    def waits_for_permit(self) -> bool:
        """Whether it is in the queue because its LM may not be asked now."""
        return self.started is None and self.gate is not None and self.gate.watched and self.gate.shut

    def timed_out(self, *, killed: bool, drains: bool = False) -> PythonTimeout:
        """The error of a call whose deadline has passed.

        Args:
            killed: Whether its worker is ended for it.
            drains: Whether that is when the worker's other calls have ended.
        """
        now = time.monotonic()
        phase = "queued" if self.started is None else "running"
        allowed = (self.deadline or now) - self.admitted
        how = "; its worker was killed" if killed else ""
        if drains:
            how = "; its worker takes no more calls, and is killed when its other calls have ended"
        retry_after = None
        if self.gate is not None and self.waits_for_permit:
            how = f"; its LM may not be asked now: {self.gate.reason}"
            retry_after = self.gate.opens_in
        return PythonTimeout(
            f"the call did not end within its {allowed:.3g} s ({phase}){how}; raise timeout=... if it needs "
            "longer",
            details={"phase": phase, "elapsed": round(now - self.admitted, 3), "killed": killed},
            retry_after=retry_after,
        )
