"""The route of one call: from what the caller wrote to the outputs, or one error."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from dspex.errors import DspexError, InvalidOption, PythonTimeout
from dspex.lm.profile import LM
from dspex.pool.pool import LocalPool
from dspex.pool.work import Done, Work
from dspex.program import catalogue, prompt, signature
from dspex.program.fingerprint import fingerprint
from dspex.program.spec import ProgramSpec, make
from dspex.runtime.models import Models
from dspex.types import LMRequest, Usage
from dspex.wire.values import decode, encode

#: The signature of a call that names none.
DEFAULT_SIGNATURE = "prompt -> response"
_PROGRAMS_KEPT = 1024


@dataclass(frozen=True, slots=True)
class Question:
    """What a caller asks.

    Attributes:
        prompt: Text, or a list of messages.
        module: Name of a DSPy module.
        signature: Text or a ``Signature``; None is ``prompt -> response``.
        inputs: Inputs by field name.
        options: Options of the module by name.
        lm: The LM; None is the default.
        deadline: Monotonic second at which the work has to stop; None never.
    """

    prompt: str | Sequence[Mapping[str, Any]] | None = None
    module: str = "dspy.Predict"
    signature: str | signature.Signature | None = None
    inputs: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    lm: LM | str | None = None
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        outputs: Outputs by name, in the signature's order.
        completions: All of them, when the model was asked for several; else None.
        done: How the call went through the pool.
        request_id: Its name, as in its errors.
        total: Seconds from the question to the answer.
    """

    outputs: dict[str, Any]
    completions: list[dict[str, Any]] | None
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


class Programs:
    """Encoded specs of programs that were called before, so that a repeated call does not make them again."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, signature.Signature, str], tuple[bytes, bytes]] = OrderedDict()

    def encoded(self, spec: ProgramSpec) -> tuple[bytes, bytes]:
        """The spec as it travels, and its fingerprint."""
        key = (spec.module, spec.signature, repr(spec.options))
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = (msgspec.msgpack.encode(spec), fingerprint(spec))
            if len(self._kept) > _PROGRAMS_KEPT:
                self._kept.popitem(last=False)
        return found


def deadline_in(timeout: float | None) -> float | None:
    """The monotonic second at which a timeout ends; None stays None.

    Raises:
        InvalidOption: It is not a positive number of seconds.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < 1e9:
        raise InvalidOption(
            f"timeout has to be a positive number of seconds, or None for no deadline, not {timeout!r}",
            details={"option": "timeout"},
        )
    return time.monotonic() + timeout


async def ask(question: Question, pool: LocalPool, models: Models, programs: Programs) -> Answer:
    """Take a question through the pool.

    Raises:
        DspexError: Whatever went wrong, with ``request_id`` set. What is refused never reaches an LM.
    """
    request_id = secrets.token_hex(8)
    started = time.monotonic()
    try:
        sig, inputs = prompt.fill(
            signature.of(question.signature or DEFAULT_SIGNATURE), question.prompt, question.inputs
        )
        spec = make(question.module, sig, question.options)
        data, name = programs.encoded(spec)
        encoded = encode(inputs, where="inputs")
        number, lm = await _in_time(models, question, started)
        done = await pool.execute(
            Work(
                "execute_module",
                encoded.data,
                question.deadline,
                data,
                name,
                number,
                lm,
                catalogue.find(spec.module).repeatable,
                admitted=started,
            )
        )
        answer = decode(done.value, encoded.types)
    except DspexError as error:
        raise error.for_request(request_id)  # noqa: B904 (it is the same error)
    seconds = time.monotonic() - started
    return Answer(answer["outputs"], answer.get("completions"), done, request_id, seconds)


async def _in_time(models: Models, question: Question, started: float) -> tuple[int, Any]:
    """The call's LM; the embedded one may have to start, within the call's deadline."""
    if question.deadline is None or not models.may_wait(question.lm):
        return await models.resolve(question.lm)
    try:
        async with asyncio.timeout(question.deadline - time.monotonic()):
            return await models.resolve(question.lm)
    except TimeoutError:
        elapsed = time.monotonic() - started
        raise PythonTimeout(
            f"the local model was not ready within the call's {elapsed:.3g} s; its first start takes longer, "
            "so raise timeout=... or open the runtime with lm='local'",
            details={"phase": "queued", "elapsed": round(elapsed, 3), "killed": False},
        ) from None
