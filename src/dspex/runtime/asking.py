"""A prepared question on its way through the pool: from the cache, or with one LM after the other."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from dspex.errors import DspexError, LMAuth, LMNotConfigured, PythonTimeout
from dspex.lm.profile import LM
from dspex.pool.work import Done, Work
from dspex.runtime.budgets import Budgets
from dspex.runtime.cached import Caches, wanted
from dspex.runtime.call import read
from dspex.runtime.fallbacks import ask_in_turn, requests_of
from dspex.runtime.functions import Functions
from dspex.runtime.models import Models, Resolved
from dspex.runtime.question import Question
from dspex.telemetry.bus import Bus
from dspex.wire.blobs import Blob
from dspex.wire.payloads import Payload, astore, discard

if TYPE_CHECKING:
    from dspex.runtime.call import PoolFor, Prepared
    from dspex.runtime.tools import CallTools

_log = logging.getLogger("dspex.runtime")


@dataclass(frozen=True, slots=True)
class Way:
    """What questions of one pool pass.

    Attributes:
        pool: The pool's name.
        pool_for: The pool whose workers can ask an LM, and its companion for calls that run alone.
        models: The runtime's models.
        functions: Where the caller's tools run.
        caches: The runtime's caches.
        budgets: What LM requests are paid from.
        bus: Told when another LM is asked.
    """

    pool: str
    pool_for: PoolFor
    models: Models
    functions: Functions
    caches: Caches
    budgets: Budgets
    bus: Bus


async def send(prepared: Prepared, way: Way) -> Done:
    """Take a prepared question through the pool, on the runtime's loop. Its inputs are let go of.

    Raises:
        DspexError: Whatever went wrong, with ``request_id`` set.
    """
    try:
        stored = prepared.inputs
        inputs = await astore(stored) if isinstance(stored, list) else stored
        try:
            return await _Asking(prepared, inputs, prepared.callbacks(way.functions), way).done()
        finally:
            discard(inputs)
    except DspexError as error:
        raise error.for_request(prepared.request_id)  # noqa: B904 (it is the same error)


class _Asking:
    def __init__(self, prepared: Prepared, inputs: Payload, callbacks: CallTools | None, way: Way) -> None:
        self._prepared = prepared
        self._inputs = inputs
        self._callbacks = callbacks
        self._way = way
        self._others = False  # whether another LM may be asked

    async def done(self) -> Done:
        """Ask the question's LM, then those that stand in for it."""
        prepared = self._prepared
        lms = self._in_turn()
        if len(lms) < 2:
            return await self._ask(prepared.question, [])
        self._others = True
        again = (lambda _: None) if prepared.flow is None else prepared.flow.again
        return await ask_in_turn(prepared.question, lms, self._ask, self._way.bus, again)

    def _in_turn(self) -> list[LM]:
        """The LMs that are asked, one after the other; none for a program that needs none and has none."""
        try:
            return self._way.models.in_turn(self._prepared.question.lm)
        except LMNotConfigured:
            return []  # it is told, where it matters, when that LM is looked for

    async def _ask(self, question: Question, works: list[Work]) -> Done:
        """Ask with the LM's key, and once more if it was refused and has been renewed meanwhile."""
        prepared, models = self._prepared, self._way.models
        try:
            lm = await _in_time(models, question, prepared.started)
        except LMNotConfigured as refusal:
            if prepared.needs_lm:
                raise
            try:
                return await self._run(question, None, works)
            except LMNotConfigured:
                raise refusal from None  # it did ask one, and this one says what is missing
        profile = models.find(question.lm)
        try:
            return await self._way.caches.through(
                prepared, self._inputs, profile, lm, self._way.pool, lambda: self._run(question, lm, works)
            )
        except LMAuth as refusal:
            # A function or a file may give another key by now.
            newer = await _in_time(models, question, prepared.started, refused=lm.spec.secrets)
            if newer.spec.secrets == lm.spec.secrets or not all(work.repeatable for work in works):
                raise
            _log.info("the key of %s was refused and has changed since: asking again", lm.spec.asked)
            done = await self._run(question, newer, works)
            return replace(done, requests=[*requests_of(refusal), *done.requests])

    async def _run(self, question: Question, lm: Resolved | None, works: list[Work]) -> Done:
        """Give it to the pool; what its LM requests may cost is looked up only now."""
        prepared, whose = self._prepared, question.caller
        number, spec, gate = (0, None, None) if lm is None else (lm.number, lm.spec, lm.gate)
        work = Work(
            "execute_module",
            self._inputs,
            question.deadline,
            prepared.program,
            prepared.fingerprint,
            number,
            spec,
            gate,
            tenant=whose.tenant,
            batch=whose.batch,
            repeatable=prepared.repeatable,
            debug=question.debug,
            callbacks=self._callbacks,
            flow=prepared.flow,
            trace=prepared.trace,
            said=prepared.said,
            request_id=prepared.request_id,
            purse=await self._way.budgets.purse(prepared.question),
            admitted=prepared.started,
            waited_from=time.monotonic() if question is not prepared.question else None,
        )
        works.append(work)
        prepared.works.append(work)
        pool = self._way.pool_for(spec, isolated=not prepared.shared, tenant=whose.tenant)
        done = await pool.execute(work)
        if prepared.outputs and (self._others or wanted(prepared, self._way.models.find(question.lm))):
            await self._try_reading(done)
        return done

    async def _try_reading(self, done: Done) -> None:
        """See that the caller's own types take an answer before it is kept, or stands for all others."""
        value = done.value.copy() if isinstance(done.value, Blob) else done.value
        try:
            # Off this loop: validators are the caller's.
            await asyncio.to_thread(read, self._prepared, replace(done, value=value))
        except BaseException as error:
            discard(done.value)
            if isinstance(error, DspexError):
                error.details["requests"] = msgspec.to_builtins(done.requests)
            raise


async def _in_time(
    models: Models, question: Question, started: float, *, refused: Collection[str] = ()
) -> Resolved:
    """The call's LM; the embedded one may have to start, a key to be fetched, within the call's deadline."""
    if question.deadline is None or not models.may_wait(question.lm):
        return await models.resolve(question.lm, question.caller.tenant, refused=refused)
    try:
        async with asyncio.timeout(question.deadline - time.monotonic()):
            return await models.resolve(question.lm, question.caller.tenant, refused=refused)
    except TimeoutError:
        elapsed = time.monotonic() - started
        raise PythonTimeout(
            f"the LM was not ready within the call's {elapsed:.3g} s: the local model takes longer at first "
            "(open the runtime with lm='local'), and so may a key that a function gives",
            details={"phase": "queued", "elapsed": round(elapsed, 3), "killed": False},
        ) from None
