"""The messages between the supervisor, its zygotes and their workers.

Each one is a tagged MessagePack array. Payloads (arguments, results, program specs) stay ``Raw`` until
somebody uses them, so the supervisor never looks into what it only passes on.
"""

from __future__ import annotations

from typing import Any

import msgspec

from dspex.types import LMRequest, LMSpec, SandboxRules, SpanRecord

#: Goes up with every change of a message; both ends compare it at the handshake.
PROTOCOL = 9

NOTHING = msgspec.Raw(b"\xc0")
#: Bytes of room beside the largest payload, for a call's program, its LM and the message around them.
ENVELOPE = 4 * 1024 * 1024


class Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The base of all messages."""


# Supervisor → worker


class Call(Message, frozen=True, tag="call"):
    """Run a command.

    Attributes:
        id: Number of the call on this channel; what answers it carries the same number.
        command: Name of the command.
        deadline: When the work has to stop, on the machine's monotonic clock in seconds; None never.
        args: The arguments, encoded as values; nothing when a blob beside the message has them.
        program: The encoded ``ProgramSpec``, for commands that run one.
        fingerprint: What the worker keeps a built program by; empty without a program.
        lm: Number of an LM that ``UseLM`` sent on this channel; 0 is none.
        seat: Number of the gate where its first LM request need not ask: it has its permit; 0 for none.
        debug: Whether the answer is to have the messages of its LM requests.
        credit: How many deltas it may send before it gets more ``Credit``; None of one that does not stream.
        asks: Whether each of its LM requests has to ask, because it has a budget.
        trace: The span that its spans belong in, as W3C's ``traceparent``; empty when nobody wants any.
            Those of one that is not sampled are not gathered.
        trace_content: Whether spans are to have what was said.
    """

    id: int
    command: str
    deadline: float | None
    args: msgspec.Raw
    program: msgspec.Raw = NOTHING
    fingerprint: bytes = b""
    lm: int = 0
    seat: int = 0
    debug: bool = False
    credit: int | None = None
    asks: bool = False
    trace: str = ""
    trace_content: bool = False


class Credit(Message, frozen=True, tag="credit"):
    """A call that streams may send so many deltas more."""

    id: int
    more: int


class Cancel(Message, frozen=True, tag="cancel"):
    """Stop a call, whose caller has gone away."""

    id: int


class UseLM(Message, frozen=True, tag="lm"):
    """An LM that calls on this channel will name by ``number``."""

    number: int
    spec: LMSpec


class DropLM(Message, frozen=True, tag="drop_lm"):
    """No further call will name this LM."""

    number: int


class LmGo(Message, frozen=True, tag="lm_go"):
    """An LM request that has asked may be sent, or must not be.

    Attributes:
        ask: The number it asked with.
        refused: Why it must not be sent, as ``DspexError.to_wire()`` gives it; None when it may.
    """

    ask: int
    refused: dict[str, Any] | None = None


class ToolResult(Message, frozen=True, tag="tool_result"):
    """What a function of the caller's gave.

    Attributes:
        call: Number of the call that it was called for.
        number: The worker's own number for it.
        value: What it returned, encoded as a value; nothing when a blob beside the message has it.
        error: What ``DspexError.to_wire()`` gives; None when it returned.
        approval: What its approval said, where there was one: ``"allowed"``, ``"edited"`` or ``"denied"``.
        args: The arguments as they were edited, encoded as a value.
    """

    call: int
    number: int
    value: msgspec.Raw = NOTHING
    error: dict[str, Any] | None = None
    approval: str = ""
    args: msgspec.Raw = NOTHING


class Watch(Message, frozen=True, tag="watch"):
    """Whether LM requests have to ask at the gate of a profile without limits, from now on.

    Attributes:
        gate: The gate's number.
        on: Whether they have to.
    """

    gate: int
    on: bool


class Knock(Message, frozen=True, tag="knock"):
    """Is the event loop still turning? ``Beat`` answers, at once when it is."""


class Shutdown(Message, frozen=True, tag="shutdown"):
    """Take no more calls, stop those that run, and exit."""


# Worker → supervisor


class Ready(Message, frozen=True, tag="ready"):
    """The handshake: the worker takes calls from now on.

    Attributes:
        protocol: The worker's ``PROTOCOL``.
        installed: The encoded ``Installed``: what the DSPy of its zygote has of the table of modules.
    """

    protocol: int
    installed: msgspec.Raw = NOTHING


class Beat(Message, frozen=True, tag="beat"):
    """The event loop turns: what a knock is answered with."""


class Result(Message, frozen=True, tag="result"):
    """A call ended well.

    Attributes:
        id: The call's number.
        value: What it returned, encoded as a value; nothing when a blob beside the message has it.
        seconds: How long it ran.
    """

    id: int
    value: msgspec.Raw
    seconds: float = 0.0


class Fault(Message, frozen=True, tag="fault"):
    """A call failed.

    Attributes:
        id: The call's number.
        error: What ``DspexError.to_wire()`` gives.
        seconds: How long it ran.
    """

    id: int
    error: dict[str, Any]
    seconds: float = 0.0


class Chunk(Message, frozen=True, tag="chunk"):
    """Something that happened in a call that streams.

    Attributes:
        id: The call's number.
        kind: ``"delta"``, which takes one of the call's credit; ``"status"``, ``"tool_call"``,
            ``"tool_result"`` or ``"usage"``, which take none.
        name: A delta's field; a tool.
        text: A delta's text; a status in words; what a tool that failed said.
        value: A tool's arguments or what it gave, encoded as a value; the tokens of an LM request.
    """

    id: int
    kind: str
    name: str = ""
    text: str = ""
    value: msgspec.Raw = NOTHING


class LmAsk(Message, frozen=True, tag="lm_ask"):
    """May a request be sent to an LM? ``LmGo`` answers, when it may.

    Attributes:
        call: Number of the call that makes it.
        ask: The worker's own number for it.
        gate: Number of the LM's gate.
        tokens: About how many tokens are sent.
        most: The most tokens that the request lets the model generate; None is not said.
        prices: US dollars for one token sent, and for one generated; None when nobody knows them, or when the
            call has no budget.
    """

    call: int
    ask: int
    gate: int
    tokens: int
    most: int | None = None
    prices: tuple[float, float] | None = None


class LmDone(Message, frozen=True, tag="lm_done"):
    """What became of one attempt of an LM request.

    Attributes:
        call: Number of the call that made it.
        ask: The number it asked with; 0 if it did not have to, -1 if it used its call's seat.
        gate: Number of the LM's gate.
        sent: When it was sent, on the machine's monotonic clock in seconds; None if it never was.
        status: ``"ok"``, or the code of the error.
        retry_after: Seconds that the provider wants to be left alone.
        record: The whole request, all its attempts together, when there will be no other one.
    """

    call: int
    ask: int
    gate: int
    sent: float | None
    status: str
    retry_after: float | None = None
    record: LMRequest | None = None


class ToolCall(Message, frozen=True, tag="tool_call"):
    """A call wants a function of its caller's called; ``ToolResult`` answers.

    Attributes:
        call: Number of the call.
        number: The worker's own number for it.
        tool: The function's name among those of the call.
        args: Its arguments, a dict by name, encoded as a value; nothing when a blob beside the message has
            them.
        span: Number of the span in which it runs; 0 where nobody wants spans.
    """

    call: int
    number: int
    tool: str
    args: msgspec.Raw
    span: int = 0


class Spans(Message, frozen=True, tag="spans"):
    """What went on in a call, for whoever traces it; what is told last of a span holds.

    Attributes:
        call: Number of the call.
        spans: The spans.
    """

    call: int
    spans: list[SpanRecord]


# Supervisor ⇄ zygote


class Boot(Message, frozen=True, tag="boot"):
    """How a zygote prepares itself before its first fork.

    Attributes:
        protocol: The supervisor's ``PROTOCOL``.
        sys_path: The caller's import path, put in front of the zygote's own.
        directory: The caller's working directory, which is searched last.
        preload: Modules to import, which stay loaded in every worker.
    """

    protocol: int
    sys_path: list[str]
    directory: str
    preload: list[str]


class WorkerOptions(Message, frozen=True, tag="options"):
    """What one worker is told when it is forked.

    Attributes:
        slots: Calls that it may be given at once.
        allow_modules: Import path prefixes that programs, commands and engines of the user may come from.
        max_payload: The largest arguments in bytes that it is sent.
        max_result: The largest result in bytes that it may send.
        isolated: Whether it runs one call only, on its main thread, and keeps its channel on another.
        max_memory: Bytes of data that it may have, thread stacks included, so that an allocation above fails;
            None is no limit. See ``limits.limit_data``.
        late_preload: Modules that could not be loaded before the fork and are loaded in the worker.
        show_unsendable: Whether a result tells of a part that cannot be sent what its ``repr`` says.
        sandbox: What code that a model wrote may take.
    """

    slots: int
    allow_modules: list[str]
    max_payload: int
    max_result: int
    isolated: bool = False
    max_memory: int | None = None
    late_preload: list[str] = []
    show_unsendable: bool = False
    sandbox: SandboxRules = SandboxRules()


class Fork(Message, frozen=True, tag="fork"):
    """Fork a worker; its channel, lifeline and output pipes come as descriptors beside this message."""

    worker: int
    options: WorkerOptions


class Booted(Message, frozen=True, tag="booted"):
    """The zygote is ready to fork.

    Attributes:
        protocol: The zygote's ``PROTOCOL``.
        pid: Its pid.
        seconds: How long the imports took.
    """

    protocol: int
    pid: int
    seconds: float


class BootFailed(Message, frozen=True, tag="boot_failed"):
    """The zygote could not prepare itself and exits.

    Attributes:
        cause: What went wrong, for people.
        threaded: Preloads that started threads, when that is all: a zygote without them will do.
    """

    cause: str
    threaded: list[str] = []


class Forked(Message, frozen=True, tag="forked"):
    """A worker exists, and its pidfd comes beside this message; without one the fork has failed."""

    worker: int
    pid: int


class Exited(Message, frozen=True, tag="exited"):
    """A worker is dead and reaped, its group killed, and what it had started elsewhere is being killed.

    Attributes:
        worker: The worker's number.
        status: Its exit code; negative: the signal that ended it; None: unknown.
    """

    worker: int
    status: int | None


ToWorker = Call | Credit | Cancel | UseLM | DropLM | LmGo | ToolResult | Watch | Knock | Shutdown
FromWorker = Ready | Beat | Chunk | Result | Fault | LmAsk | LmDone | ToolCall | Spans
ToZygote = Boot | Fork
FromZygote = Booted | BootFailed | Forked | Exited

# Made once, and in a zygote before its forks: making one takes a millisecond.
encode = msgspec.msgpack.Encoder().encode
read_by_worker = msgspec.msgpack.Decoder(ToWorker).decode
read_from_worker = msgspec.msgpack.Decoder(FromWorker).decode
read_by_zygote = msgspec.msgpack.Decoder(ToZygote).decode
read_from_zygote = msgspec.msgpack.Decoder(FromZygote).decode
