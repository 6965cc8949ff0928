"""The route of one call: from what the caller wrote to the outputs, or one error."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from dspex.errors import DspexError, PythonError
from dspex.pool.pool import LocalPool
from dspex.pool.work import Done, Flow, Work
from dspex.program import described, forms, prompt
from dspex.program.described import Description
from dspex.program.given import Given
from dspex.program.installed import Catalogue
from dspex.program.signature import Signature
from dspex.program.toolspec import CallersTool
from dspex.runtime import typed
from dspex.runtime.encoded import Programs
from dspex.runtime.functions import Functions
from dspex.runtime.question import DEFAULT_SIGNATURE, Question
from dspex.runtime.specify import specify
from dspex.runtime.tools import CallTools
from dspex.types import LMRequest, LMSpec, Usage
from dspex.wire.blobs import Blob
from dspex.wire.payloads import Payload, encode_arguments, take
from dspex.wire.values import WireError

if TYPE_CHECKING:
    from dspex.telemetry.spans import CallSpans

_log = logging.getLogger("dspex.runtime")


class PoolFor(Protocol):
    """Chooses a pool for a call."""

    def __call__(
        self, lm: LMSpec | None = None, *, isolated: bool = False, tenant: str = ""
    ) -> LocalPool: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        outputs: Outputs by name, in the signature's order.
        completions: All of them, when the model was asked for several; else None.
        told: What else the program told, by name: ``trajectory``, ``tool_calls``.
        done: How the call went through the pool.
        request_id: Its name, as in its errors.
        total: Seconds from the question to the answer.
    """

    outputs: dict[str, Any]
    completions: list[dict[str, Any]] | None
    told: dict[str, Any]
    done: Done
    request_id: str
    total: float

    @property
    def usage(self) -> Usage:
        """The tokens of all LM requests together."""
        return sum((request.usage for request in self.done.requests), Usage())

    @property
    def cost(self) -> float | None:
        """US dollars of all LM requests together; None when the price of one that answered is unknown."""
        costs = [request.cost for request in self.done.requests if request.status == "ok"]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if costs and len(known) == len(costs) else None

    @property
    def requests(self) -> list[LMRequest]:
        """The LM requests that were made."""
        return self.done.requests


@dataclass(frozen=True, slots=True)
class Prepared:
    """A question that was checked and encoded, on whatever thread asked it.

    Attributes:
        question: The question.
        request_id: The call's name.
        started: Monotonic second at which it was asked.
        module: Full name of its module.
        program: The encoded spec.
        fingerprint: What workers keep that program by.
        inputs: The encoded inputs, in pieces if they are still to be stored; ``send`` lets go of them.
        types: The classes in the inputs, by their name on the wire.
        shared: Whether it may run beside other calls.
        repeatable: Whether it may run again when its worker was lost.
        needs_lm: Whether it is refused without an LM; a program of the user's own need not ask one.
        tools: What the worker may ask of its caller, by name: tools, and a reward.
        context: The context variables of whoever asked, for its tools.
        loop: The event loop of whoever asked, for its async tools; None without one.
        largest: The most bytes that the result of a tool may have.
        outputs: The caller's own type of each output that has one.
        content: The output that is the answer's one text; None where only the answer tells.
        one_output: Whether it is known to have no other.
        flow: Where what it tells while it runs goes; None when nobody listens.
        said: What events say of it; None when nobody wants to hear that a worker has it.
        trace: Its spans; None when nobody traces it.
        works: What pools were given of it so far.
    """

    question: Question
    request_id: str
    started: float
    module: str
    program: bytes
    fingerprint: bytes
    inputs: Payload | list[bytes]
    types: Mapping[str, type]
    shared: bool = True
    repeatable: bool = False
    needs_lm: bool = True
    outputs: Mapping[str, Any] = field(default_factory=dict)
    tools: Mapping[str, CallersTool] = field(default_factory=dict)
    context: contextvars.Context | None = None
    loop: asyncio.AbstractEventLoop | None = None
    largest: int = 0
    content: str | None = None
    one_output: bool = False
    flow: Flow | None = None
    said: Mapping[str, Any] | None = None
    trace: CallSpans | None = None
    works: list[Work] = field(default_factory=list)

    def callbacks(self, functions: Functions) -> CallTools | None:
        """What a worker may ask of its caller while it runs this; on the runtime's loop."""
        if not self.tools:
            return None
        context = self.context or contextvars.copy_context()
        return CallTools(self.tools, functions, context, self.loop, self.largest, self.request_id, self.trace)


def prepare(
    question: Question,
    programs: Programs,
    max_payload: int,
    *,
    users: Description | None = None,
    declared: Signature | None = None,
    allow_modules: Collection[str] = (),
    catalogue: Catalogue | None = None,
    on_loop: bool = False,
) -> Prepared:
    """Check and encode a question. Large values take their time here, and not on the runtime's loop.

    Args:
        question: The question.
        programs: The runtime's encoded programs.
        max_payload: The most bytes that the inputs may have.
        users: What is known of the program, when it is one of the user's own.
        declared: What a worker said of the signature, when it is given by import path.
        allow_modules: Where tools and rewards by import path may come from.
        catalogue: What of the table of modules is installed; None is all of it.
        on_loop: Whether this is an event loop's thread: then ``send`` has large inputs stored in another.

    Raises:
        Refused: Something in it is wrong; no LM is asked.
    """
    try:
        if users is None:
            wanted = DEFAULT_SIGNATURE if question.signature is None else question.signature
            given = forms.read(wanted) if declared is None else Given(declared)
            sig, inputs = prompt.fill(given.signature, question.prompt, question.inputs)
            if given.inputs:
                inputs = typed.sendable(given.inputs, inputs)
            outputs = given.outputs
        else:
            sig, inputs = None, described.fill(users, question.prompt, question.inputs)
            outputs = {}
        named = specify(question, sig, users, allow_modules, catalogue)
        spec = named.spec
        program, name = programs.encoded(spec)
        stored, types = encode_arguments(inputs, max_payload, where="inputs", on_loop=on_loop)
    except DspexError as error:
        raise error.for_request(question.request_id)  # noqa: B904 (it is the same error)
    return Prepared(
        question,
        question.request_id,
        question.asked,
        spec.module,
        program,
        name,
        stored,
        types,
        named.shared,
        named.repeatable,
        needs_lm=users is None,
        outputs=outputs,
        tools=named.functions,
        context=contextvars.copy_context() if named.functions else None,
        loop=asyncio.get_running_loop() if named.functions and on_loop else None,
        largest=max_payload,
        content=None if sig is None else sig.outputs[-1].name,
        one_output=sig is not None and len(sig.outputs) == 1 and spec.module == "dspy.Predict",
    )


def read(prepared: Prepared, done: Done) -> Answer:
    """The answer, decoded on the thread that asked.

    Raises:
        PythonError: The worker's answer cannot be read.
        ParseError: An output is not of the caller's own type.
    """
    answer = read_value(done.value, prepared.types, prepared.request_id)
    seconds = time.monotonic() - prepared.started
    outputs, completions = answer.pop("outputs"), answer.pop("completions", None)
    if prepared.outputs:
        try:
            outputs = typed.rebuilt(prepared.outputs, outputs)
            if completions is not None:
                completions = [typed.rebuilt(prepared.outputs, one) for one in completions]
        except DspexError as error:
            raise error.for_request(prepared.request_id)  # noqa: B904 (it is the same error)
    return Answer(outputs, completions, answer, done, prepared.request_id, seconds)


def read_value(value: msgspec.Raw | Blob, types: Mapping[str, type], request_id: str) -> Any:
    """A value that a worker sent; a blob is closed.

    Raises:
        PythonError: It cannot be read.
    """
    try:
        return take(value, types)
    except WireError as error:
        raise PythonError(f"what the worker returned cannot be read: {error}").for_request(
            request_id
        ) from error
