"""Programs and signatures of the user's own, as workers described them: asked once, kept while it is open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from dspex.errors import DspexError, InvalidSignature, ModuleNotFound, PythonTimeout
from dspex.pool.pool import LocalPool
from dspex.pool.work import Work
from dspex.program import forms
from dspex.program.described import Description
from dspex.program.importpath import is_allowed, require_allowed, shown
from dspex.program.signature import Signature
from dspex.runtime.call import PoolFor
from dspex.runtime.question import Question
from dspex.wire.payloads import discard, encode_arguments, take

D = TypeVar("D")
# A path and a set of fields.
_MAX_ARGUMENTS = 64 * 1024


class _Asking(Generic[D]):
    """A description that is on its way, and how many calls wait for it."""

    def __init__(self, task: asyncio.Task[D]) -> None:
        self.task = task
        self.waiting = 0


class Described(Generic[D]):
    """What is known of each class of the user's own that was named.

    Args:
        allow_modules: Where they may come from.
        kind: What they are, as the command ``describe`` calls them.
        read: Reads what it answers.
    """

    def __init__(self, allow_modules: tuple[str, ...], kind: str, read: Callable[[Any], D]) -> None:
        self._allow_modules = allow_modules
        self._kind = kind
        self._read = read
        self._known: dict[str, D] = {}
        self._asking: dict[str, _Asking[D]] = {}

    def find(self, path: str) -> D | None:
        """The description, if it is known; from any thread.

        Raises:
            ModuleNotFound: It is no import path.
            NotAllowed: The settings do not allow it.
        """
        require_allowed(path, self._allow_modules)
        return self._known.get(path)

    def suggest(self, name: str) -> None:
        """Refuse a name with dots alone that one of the allowed modules may have meant.

        Raises:
            ModuleNotFound: It is one; the message has it with a colon.
        """
        module, dot, program = name.rpartition(".")
        if dot and is_allowed(module, self._allow_modules):
            raise ModuleNotFound(
                f"{shown(name)} names no program: a colon goes before the class; did you mean "
                f"'{module}:{program}'?",
                details={"module": name},
            )

    async def describe(self, path: str, pool: Callable[[], LocalPool], deadline: float | None) -> D:
        """The description, from a worker if it is not known; on the runtime's loop.

        Calls that want the same one wait for one worker. What failed is not kept, and is tried again by those
        that still have time.

        Args:
            path: The program's import path.
            pool: Gives the pool whose workers import it.
            deadline: Monotonic second at which the call that needs it ends; None never.

        Raises:
            DspexError: Whatever the worker says, or that the time was up.
        """
        started = time.monotonic()
        while True:
            known = self.find(path)
            if known is not None:
                return known
            asking = self._asking.get(path)
            own = asking is None
            if asking is None:
                asking = self._asking[path] = _Asking(asyncio.create_task(self._ask(path, pool(), deadline)))
                asking.task.add_done_callback(lambda task, path=path: self._asked(path, task))  # type: ignore[misc]
            asking.waiting += 1
            try:
                # Its task is everybody's: one that leaves stops it only when it is the last.
                left = None if own or deadline is None else max(0.0, deadline - time.monotonic())
                async with asyncio.timeout(left):
                    return await asyncio.shield(asking.task)
            except PythonTimeout:
                # It was stopped for the one who asked first.
                if own or (deadline is not None and time.monotonic() >= deadline):
                    raise
            except TimeoutError:
                raise _too_late(path, started) from None
            finally:
                asking.waiting -= 1
                if not asking.waiting:
                    asking.task.cancel()

    async def _ask(self, path: str, pool: LocalPool, deadline: float | None) -> D:
        args, _ = encode_arguments({self._kind: path}, _MAX_ARGUMENTS, where="args")
        assert not isinstance(args, list)
        try:
            done = await pool.execute(Work("describe", args, deadline, repeatable=True))
        finally:
            discard(args)
        described = self._known[path] = self._read(take(done.value))
        return described

    def _asked(self, path: str, task: asyncio.Task[D]) -> None:
        self._asking.pop(path, None)
        if not task.cancelled():
            task.exception()  # those who wait have it


class Modules(Described[Description]):
    """Programs of the user's own."""

    def __init__(self, allow_modules: tuple[str, ...]) -> None:
        super().__init__(allow_modules, "module", Description.of)


class Signatures(Described[Signature]):
    """Signatures by import path."""

    def __init__(self, allow_modules: tuple[str, ...]) -> None:
        super().__init__(
            allow_modules, "signature", lambda told: msgspec.convert(told["declared"], Signature)
        )


def known_signature(question: Question, signatures: Signatures) -> Signature | None:
    """What is known of the signature that a question names by import path; None also when it names none.

    Raises:
        Refused: The path is none, or not allowed.
    """
    if not forms.is_path(question.signature):
        return None
    try:
        return signatures.find(question.signature)
    except ModuleNotFound as error:
        raise InvalidSignature(error.message, details=error.details).for_request(
            question.request_id
        ) from None
    except DspexError as error:
        raise error.for_request(question.request_id)  # noqa: B904 (it is the same error)


async def describe_signature(question: Question, signatures: Signatures, pool_for: PoolFor) -> Signature:
    """The signature that a question names by import path, described within the question's time.

    Raises:
        DspexError: Whatever went wrong, with ``request_id`` set.
    """
    try:
        return await signatures.describe(
            question.signature, lambda: pool_for(isolated=True), question.deadline
        )
    except DspexError as error:
        raise error.for_request(question.request_id)  # noqa: B904 (it is the same error)


def known(question: Question, modules: Modules) -> Description | None:
    """What is known of the program that a question names; None also when it is one of the catalogue.

    Raises:
        Refused: Something in the question is wrong.
    """
    path = question.path()
    try:
        if path is None:
            modules.suggest(question.module)
        return None if path is None else modules.find(path)
    except DspexError as error:
        raise error.for_request(question.request_id)  # noqa: B904 (it is the same error)


async def describe(question: Question, modules: Modules, pool_for: PoolFor) -> Description:
    """The program of the user's own that a question names, described within the question's time.

    Raises:
        DspexError: Whatever went wrong, with ``request_id`` set.
    """
    try:
        return await modules.describe(question.module, lambda: pool_for(isolated=True), question.deadline)
    except DspexError as error:
        raise error.for_request(question.request_id)  # noqa: B904 (it is the same error)


def _too_late(path: str, started: float) -> DspexError:
    elapsed = time.monotonic() - started
    return PythonTimeout(
        f"{path} was not described within the call's {elapsed:.3g} s: its module takes long to import; raise "
        "timeout=... if it needs longer",
        details={"phase": "running", "elapsed": round(elapsed, 3), "killed": False},
    )
