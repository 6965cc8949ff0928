"""Programs of a user's own, good and bad: ``Settings(allow_modules=["tests.programs"])``."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import contextvars
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import dspy

import dspex

made = 0


class Router(dspy.Module):  # type: ignore[misc]
    """Sends a message where it belongs.

    More of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.classify = dspy.Predict("message -> team")
        self.explain = dspy.ChainOfThought("message, team -> reply")

    def forward(self, message: str, tone: Literal["kind", "short"] = "kind") -> Any:
        """Two requests, one after the other."""
        team = self.classify(message=message).team
        reply = self.explain(message=message, team=team).reply
        return dspy.Prediction(team=team, reply=reply, tone=tone)


class AsyncRouter(Router):
    """The same, awaiting."""

    async def aforward(self, message: str, count: int = 1) -> Any:
        """Its requests at once."""
        teams = await asyncio.gather(*[self.classify.acall(message=message) for _ in range(count)])
        return dspy.Prediction(teams=[one.team for one in teams], on=threading.current_thread().name)


@dspex.module(shared=True, idempotent=True)
class SharedAsync(dspy.Module):  # type: ignore[misc]
    """Runs beside others."""

    def __init__(self) -> None:
        global made  # noqa: PLW0603 (it counts)
        super().__init__()
        time.sleep(0.05)
        made += 1
        self.predict = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> Any:
        """One request."""
        got = await self.predict.acall(question=question)
        return dspy.Prediction(
            answer=got.answer, pid=os.getpid(), made=made, on=threading.current_thread().name
        )


@dspex.module(shared=True)
class SharedSync(dspy.Module):  # type: ignore[misc]
    """Runs in a thread."""

    def __init__(self) -> None:
        super().__init__()
        self.predict = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        """One request."""
        got = self.predict(question=question)
        return dspy.Prediction(answer=got.answer, pid=os.getpid(), on=threading.current_thread().name)


class SubOfShared(SharedSync):
    """Promises nothing of itself."""


class Nested(dspy.Module):  # type: ignore[misc]
    """Has other modules, settings of its own, and threads."""

    def __init__(self) -> None:
        super().__init__()
        self.router = Router()
        self.predict = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        """Asks from here, from a plain thread, from one of DSPy's, and with an adapter of its own."""
        routed = self.router(message=question)
        with dspy.context(adapter=dspy.JSONAdapter()):
            as_json = self.predict(question=question).answer
        lm, adapter = dspy.settings.lm, dspy.settings.adapter
        found: list[str] = []

        def beside() -> None:
            with dspy.context(lm=lm, adapter=adapter):
                found.append(self.predict(question=question).answer)

        thread = threading.Thread(target=beside)
        thread.start()
        thread.join()
        with ThreadPoolExecutor(1) as threads:
            copied = contextvars.copy_context()
            found.append(threads.submit(copied.run, self.predict, question=question).result().answer)
        many = dspy.Parallel(num_threads=2, disable_progress_bar=True)(
            [(self.predict, dspy.Example(question=question).with_inputs("question"))] * 2
        )
        return dspy.Prediction(
            team=routed.team, json=as_json, threads=found, many=[one.answer for one in many]
        )


class Anywhere(dspy.Module):  # type: ignore[misc]
    """Does what only a main thread can do."""

    def forward(self, **anything: Any) -> Any:
        """A signal handler, a loop, a fork, a print."""
        got: list[int] = []
        signal.signal(signal.SIGUSR1, lambda *_: got.append(1))
        os.kill(os.getpid(), signal.SIGUSR1)
        looped = asyncio.run(asyncio.sleep(0, "looped"))
        pid = os.fork()
        if pid == 0:
            return dspy.Prediction(of="the copy")
        status = os.waitpid(pid, 0)[1]
        print("printed by a program")  # noqa: T201
        return dspy.Prediction(
            signals=got,
            looped=looped,
            copy=status,
            main=threading.current_thread() is threading.main_thread(),
            given=anything,
        )


class Typed(dspy.Module):  # type: ignore[misc]
    """Says what it takes."""

    def forward(self, number: int, tags: list[str], other: Path | None = None, free=3) -> Any:  # type: ignore[no-untyped-def]
        """What it was given."""
        return dspy.Prediction(number=number, tags=tags, other=str(other), free=free)


class Misbehaving(dspy.Module):  # type: ignore[misc]
    """Does what it is told, and that is bad."""

    def forward(self, how: str, mark: str | None = None) -> Any:
        """See ``_misbehave``."""
        return _misbehave(how, mark)


class AsyncMisbehaving(dspy.Module):  # type: ignore[misc]
    """The same under a loop."""

    async def aforward(self, how: str, mark: str | None = None) -> Any:
        """Some of it awaiting."""
        _mark(mark)
        if how == "wait":
            await asyncio.sleep(3600)
        if how == "swallow":
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.01)
        if how == "stray":
            stray = asyncio.ensure_future(_stray())
            await asyncio.sleep(3600)
            await stray
        if how == "late":
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                _mark(mark)
                raise
        return _misbehave(how)


async def _stray() -> None:
    raise SystemExit(7)


class Odd(BaseException):
    """No Exception."""


def _mark(path: str | None) -> None:
    if path is not None:
        with Path(path).open("a") as file:
            file.write(f"{os.getpid()}\n")


def _misbehave(how: str, mark: str | None = None) -> Any:
    _mark(mark)
    match how:
        case "sleep":
            time.sleep(3600)
        case "spin":
            while True:
                pass
        case "exit":
            sys.exit(5)
        case "die":
            os._exit(3)
        case "odd":
            raise Odd("odd")
        case "interrupt":
            raise KeyboardInterrupt
        case "cancelled":
            raise asyncio.CancelledError("by itself")
        case "error":
            raise ValueError("no good")
        case "memory":
            kept = [bytearray(1 << 20) for _ in range(1 << 20)]
            return dspy.Prediction(size=len(kept))
        case "nothing":
            return None
        case "dict":
            return {"answer": 1}
    return dspy.Prediction(how=how)


class BadConstructor(dspy.Module):  # type: ignore[misc]
    """Cannot be made."""

    def __init__(self) -> None:
        super().__init__()
        raise LookupError("nothing there")

    def forward(self, question: str) -> Any:
        """Never comes to this."""


class HangingConstructor(dspy.Module):  # type: ignore[misc]
    """Is never done."""

    def __init__(self) -> None:
        super().__init__()
        time.sleep(3600)

    def forward(self, question: str) -> Any:
        """Never comes to this."""


class NeedsArguments(dspy.Module):  # type: ignore[misc]
    """Needs a size."""

    def __init__(self, size: int, *, more: str, other: int = 1) -> None:
        super().__init__()

    def forward(self, question: str) -> Any:
        """Never comes to this."""


class AbstractMeta(type(dspy.Module), abc.ABCMeta):  # type: ignore[misc]
    """DSPy's classes have a class of their own."""


class Abstract(dspy.Module, metaclass=AbstractMeta):  # type: ignore[misc]
    """Lacks something."""

    @abc.abstractmethod
    def forward(self, question: str) -> Any:
        """Of a subclass."""


class NoForward(dspy.Module):  # type: ignore[misc]
    """Has nothing to run."""


class AsyncForward(dspy.Module):  # type: ignore[misc]
    """Calls it by the other name."""

    async def forward(self, question: str) -> Any:
        """Never comes to this."""


class ByPosition(dspy.Module):  # type: ignore[misc]
    """Its input has no name."""

    def forward(self, question: str, /) -> Any:
        """Never comes to this."""


class NoModule:
    """No program."""


Predict = dspy.Predict
value = 3
